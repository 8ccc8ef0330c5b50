// A WebTransport peer for the interop tests, on webtransport-go.
//
//	peer server --cert CERT.pem --key KEY.pem
//	peer client --url URL --hash HEX --scenario NAME
//
// It is built with two versions of the library; library_*.go has the differences: clients of later
// versions require QUIC's RESET_STREAM_AT, which not every QUIC implementation has.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
)

// result is one JSON line on standard output.
type result map[string]any

func (r result) print() {
	line, err := json.Marshal(r)
	if err != nil {
		panic(err)
	}
	// One write per line: several goroutines print.
	os.Stdout.Write(append(line, '\n'))
}

func run(args []string) error {
	if len(args) == 0 {
		return errors.New("usage: peer server|client")
	}
	flags := flag.NewFlagSet(args[0], flag.ExitOnError)
	switch args[0] {
	case "server":
		cert := flags.String("cert", "", "certificate, PEM")
		key := flags.String("key", "", "private key, PEM")
		flags.Parse(args[1:])
		return serve(*cert, *key)
	case "client":
		url := flags.String("url", "", "where to")
		hash := flags.String("hash", "", "SHA-256 of the server's certificate, hexadecimal")
		scenario := flags.String("scenario", "", "what to do")
		flags.Parse(args[1:])
		return dial(*url, *hash, *scenario)
	}
	return fmt.Errorf("neither server nor client: %s", args[0])
}

func main() {
	os.Setenv("QUIC_GO_DISABLE_RECEIVE_BUFFER_WARNING", "true")
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

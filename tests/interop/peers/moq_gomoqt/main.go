// A peer of Media over QUIC for the interop tests, on gomoqt.
//
//	peer server --cert CERT.pem --key KEY.pem --scenario NAME   prints {"port":N}, then a line a session
//	peer client --url URL --hash HEX --scenario NAME            prints one line of JSON
//
// URLs start with moqt:// for raw QUIC and with https:// for WebTransport; the server accepts both.
// The scenarios are "publish" and "subscribe", whichever end dials: see publish.go and
// subscribe.go. With "ask" the newer version fetches, probes and waits to be sent away. On SIGTERM
// its server asks all clients to leave. "peer bench" runs the benchmark: see bench.go.
//
// It is built with two versions of the library; library_*.go has the differences: one version
// speaks gomoqt's own version of the protocol, the other moq-lite-04.
package main

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/quic-go/quic-go"
)

// patience is the longest time of a session.
const patience = 60 * time.Second

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

// play plays a scenario over a session, until the session closes.
type play func(ctx context.Context, session *session) (result, error)

// newPlay prepares a scenario: a session serves the contents of the mux.
func newPlay(scenario string) (*trackMux, play, error) {
	mux := newMux()
	switch scenario {
	case "publish":
		return mux, newPublisher(mux).run, nil
	case "subscribe":
		return mux, subscribe, nil
	case "ask":
		return mux, ask, nil
	case "bench":
		return mux, newBench(mux), nil
	}
	return nil, nil, fmt.Errorf("no such scenario: %q", scenario)
}

func serve(certFile, keyFile, scenario string) error {
	certificate, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return err
	}
	address, err := freeAddress()
	if err != nil {
		return err
	}
	config := &tls.Config{
		Certificates: []tls.Certificate{certificate},
		NextProtos:   []string{nextProtoH3, nextProtoMOQ},
	}
	ended := make(chan error, 1)
	go func() {
		ended <- listen(address.String(), config, quicConfig(), scenario)
	}()
	result{"port": address.Port}.print()
	return <-ended
}

// freeAddress finds a free port, because the library does not report its port.
func freeAddress() (*net.UDPAddr, error) {
	socket, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return nil, err
	}
	return socket.LocalAddr().(*net.UDPAddr), socket.Close()
}

func dial(url, hash, scenario string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	config := &tls.Config{
		// The certificate's hash is checked instead of its chain.
		InsecureSkipVerify: true,
		VerifyPeerCertificate: func(chain [][]byte, _ [][]*x509.Certificate) error {
			if sum := sha256.Sum256(chain[0]); hex.EncodeToString(sum[:]) != hash {
				return errors.New("the certificate has another hash")
			}
			return nil
		},
	}
	if url[:4] == "moqt" {
		config.NextProtos = []string{nextProtoMOQ}
	}
	mux, play, err := newPlay(scenario)
	if err != nil {
		return err
	}
	session, err := connect(ctx, url, config, quicConfig(), mux)
	if err != nil {
		return err
	}
	seen, err := play(ctx, session)
	if err != nil {
		return err
	}
	seen.print()
	return nil
}

// answer plays a scenario over a session that a client opened.
func answer(session *session, play play, setup result) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	seen, err := play(ctx, session)
	if err != nil {
		result{"failed": err.Error()}.print()
		return
	}
	if setup != nil {
		seen["setup"] = setup
	}
	seen.print()
}

func quicConfig() *quic.Config {
	return &quic.Config{
		EnableDatagrams:       true,
		MaxIncomingUniStreams: 10_000,
		MaxIdleTimeout:        patience,
		// By default, a handshake times out after 5 s, which is too short on a busy machine.
		HandshakeIdleTimeout: patience,
	}
}

func run(args []string) error {
	if len(args) == 0 {
		return errors.New("usage: peer server|client|bench")
	}
	if args[0] == "bench" {
		return bench(args[1:])
	}
	flags := flag.NewFlagSet(args[0], flag.ExitOnError)
	scenario := flags.String("scenario", "", "publish, subscribe or ask")
	switch args[0] {
	case "server":
		cert := flags.String("cert", "", "certificate, PEM")
		key := flags.String("key", "", "private key, PEM")
		flags.Parse(args[1:])
		return serve(*cert, *key, *scenario)
	case "client":
		url := flags.String("url", "", "where to")
		hash := flags.String("hash", "", "SHA-256 of the server's certificate, hexadecimal")
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

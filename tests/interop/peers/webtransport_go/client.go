package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"github.com/quic-go/webtransport-go"
)

const (
	sequentialEchoes = 500
	concurrentEchoes = 200
	uniStreams       = 50
	datagramBursts   = 30
	datagramsABurst  = 10
	bigBytes         = 5_000_000
	openedStreams    = 20
	resetCode        = 42
	stopCode         = 43
)

func dial(url, hash, scenario string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	var connection *quic.Conn
	dialer := dialer{
		TLSClientConfig: &tls.Config{
			NextProtos: []string{http3.NextProtoH3},
			// The certificate's hash is checked instead of its chain.
			InsecureSkipVerify: true,
			VerifyPeerCertificate: func(chain [][]byte, _ [][]*x509.Certificate) error {
				if sum := sha256.Sum256(chain[0]); hex.EncodeToString(sum[:]) != hash {
					return errors.New("the certificate has another hash")
				}
				return nil
			},
		},
		DialAddr: func(
			ctx context.Context, address string, tlsConfig *tls.Config, config *quic.Config,
		) (_ *quic.Conn, err error) {
			connection, err = quic.DialAddrEarly(ctx, address, tlsConfig, config)
			return connection, err
		},
	}
	header := http.Header{}
	if scenario == "protocol" {
		offer(&dialer, header, "skein.2", "skein.1")
	}
	response, session, err := dialer.Dial(ctx, url, header)
	if why := unsupported(err); why != "" {
		result{"unsupported": why}.print()
		return nil
	}
	if scenario == "rejected" {
		if response == nil {
			return err
		}
		authenticate := response.Header.Get("WWW-Authenticate")
		result{"status": response.StatusCode, "authenticate": authenticate}.print()
		return nil
	}
	if err != nil {
		return err
	}
	if scenario == "close" {
		if err := session.CloseWithError(4010, "grüße"); err != nil {
			return err
		}
		// Written data still has to be sent, and the library does not report when it has been.
		select {
		case <-connection.Context().Done():
		case <-time.After(5 * time.Second):
		}
		result{"done": true}.print()
		return nil
	}
	seen, err := play(ctx, scenario, session, response)
	if err != nil {
		return err
	}
	seen.print()
	return connection.CloseWithError(0x100, "")
}

func play(
	ctx context.Context, scenario string, session *webtransport.Session, response *http.Response,
) (result, error) {
	switch scenario {
	case "echo":
		return echoes(ctx, session), nil
	case "uni":
		return unidirectional(ctx, session)
	case "datagrams":
		return datagrams(ctx, session)
	case "big":
		return big(ctx, session)
	case "opened-by-server":
		return opened(ctx, session)
	case "reset":
		return reset(ctx, session)
	case "closed-by-server":
		_, err := session.AcceptStream(ctx)
		var closed *webtransport.SessionError
		if !errors.As(err, &closed) {
			return nil, fmt.Errorf("not closed, but: %w", err)
		}
		return result{"code": closed.ErrorCode, "reason": closed.Message}, nil
	case "protocol":
		return result{"protocol": chosen(response, session)}, nil
	}
	return nil, fmt.Errorf("no such scenario: %s", scenario)
}

// roundTrip sends a payload on a new stream and reads the reply to its end.
func roundTrip(ctx context.Context, session *webtransport.Session, payload []byte) ([]byte, error) {
	stream, err := session.OpenStreamSync(ctx)
	if err != nil {
		return nil, err
	}
	// The peer echoes while it reads, so this end has to read while it writes.
	sent := make(chan error, 1)
	go func() {
		_, err := stream.Write(payload)
		sent <- errors.Join(err, stream.Close())
	}()
	deadline, _ := ctx.Deadline()
	stream.SetReadDeadline(deadline)
	answer, err := io.ReadAll(stream)
	if err != nil {
		return nil, err
	}
	return answer, <-sent
}

func echoes(ctx context.Context, session *webtransport.Session) result {
	isRight := func(payload string) bool {
		answer, err := roundTrip(ctx, session, []byte(payload))
		if err != nil {
			fmt.Fprintln(os.Stderr, payload, err)
		}
		return err == nil && string(answer) == payload
	}
	sequential := 0
	for n := range sequentialEchoes {
		if isRight(fmt.Sprintf("sequential %d", n)) {
			sequential++
		}
	}
	rights := make(chan bool, concurrentEchoes)
	var group sync.WaitGroup
	for n := range concurrentEchoes {
		group.Add(1)
		go func() {
			defer group.Done()
			rights <- isRight(fmt.Sprintf("concurrent %d", n))
		}()
	}
	group.Wait()
	close(rights)
	concurrent := 0
	for right := range rights {
		if right {
			concurrent++
		}
	}
	return result{"sequential": sequential, "concurrent": concurrent}
}

func unidirectional(ctx context.Context, session *webtransport.Session) (result, error) {
	missing := map[string]bool{}
	for n := range uniStreams {
		missing[fmt.Sprintf("one way %d", n)] = true
	}
	sent := make(chan error, 1)
	go func() {
		sent <- func() error {
			for n := range uniStreams {
				stream, err := session.OpenUniStreamSync(ctx)
				if err != nil {
					return err
				}
				if _, err := fmt.Fprintf(stream, "one way %d", n); err != nil {
					return err
				}
				if err := stream.Close(); err != nil {
					return err
				}
			}
			return nil
		}()
	}()
	for range uniStreams {
		stream, err := session.AcceptUniStream(ctx)
		if err != nil {
			return nil, err
		}
		payload, err := io.ReadAll(stream)
		if err != nil {
			return nil, err
		}
		delete(missing, string(payload))
	}
	return result{"returned": uniStreams - len(missing)}, <-sent
}

func datagrams(ctx context.Context, session *webtransport.Session) (result, error) {
	returned := map[string]bool{}
	for burst := range datagramBursts {
		for n := range datagramsABurst {
			payload := fmt.Appendf(nil, "datagram %d.%d", burst, n)
			if err := session.SendDatagram(payload); err != nil {
				return nil, err
			}
		}
		// Datagrams that have not returned by then count as lost.
		patience, cancel := context.WithTimeout(ctx, 20*time.Second)
		for range datagramsABurst {
			datagram, err := session.ReceiveDatagram(patience)
			if err != nil {
				break
			}
			returned[string(datagram)] = true
		}
		cancel()
	}
	return result{"returned": len(returned)}, nil
}

func big(ctx context.Context, session *webtransport.Session) (result, error) {
	payload := make([]byte, bigBytes)
	rand.Read(payload)
	answer, err := roundTrip(ctx, session, payload)
	if err != nil {
		return nil, err
	}
	return result{"bytes": len(answer), "same": bytes.Equal(answer, payload)}, nil
}

// opened replies on the streams that the server opens, until it closes the session.
func opened(ctx context.Context, session *webtransport.Session) (result, error) {
	for count := 0; ; count++ {
		stream, err := session.AcceptStream(ctx)
		var closed *webtransport.SessionError
		if errors.As(err, &closed) {
			return result{"opened": count, "code": closed.ErrorCode}, nil
		}
		if err != nil {
			return nil, err
		}
		go func() {
			io.Copy(stream, stream)
			stream.Close()
		}()
	}
}

// reset resets one stream, and stops reading another: the server sees both codes.
func reset(ctx context.Context, session *webtransport.Session) (result, error) {
	written, err := echoed(ctx, session)
	if err != nil {
		return nil, err
	}
	written.CancelWrite(resetCode)
	// The server aborts its direction in return.
	if _, err := io.Copy(io.Discard, written); err != nil {
		return nil, err
	}
	read, err := echoed(ctx, session)
	if err != nil {
		return nil, err
	}
	read.CancelRead(stopCode)
	// The server detects this when it writes, and then stops reading.
	for ctx.Err() == nil {
		if _, err := io.WriteString(read, "more"); err != nil {
			return result{"done": true}, nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return nil, ctx.Err()
}

// echoed opens a stream that the server has certainly accepted.
func echoed(ctx context.Context, session *webtransport.Session) (*webtransport.Stream, error) {
	stream, err := session.OpenStreamSync(ctx)
	if err != nil {
		return nil, err
	}
	deadline, _ := ctx.Deadline()
	stream.SetDeadline(deadline)
	if _, err := io.WriteString(stream, "half"); err != nil {
		return nil, err
	}
	_, err = io.ReadFull(stream, make([]byte, len("half")))
	return stream, err
}

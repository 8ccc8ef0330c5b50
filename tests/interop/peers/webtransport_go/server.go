package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/quic-go/quic-go/http3"
	"github.com/quic-go/webtransport-go"
)

func serve(certFile, keyFile string) error {
	certificate, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return err
	}
	socket, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	config := http3.ConfigureTLSConfig(&tls.Config{Certificates: []tls.Certificate{certificate}})
	server := newServer(mux, config)
	server.CheckOrigin = func(*http.Request) bool { return true }
	mux.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) {
		session, err := upgrade(server, w, r)
		if err != nil {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		echo(session)
	})
	mux.HandleFunc("/open", func(w http.ResponseWriter, r *http.Request) {
		session, err := server.Upgrade(w, r)
		if err != nil {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		// The close code reports the number of correct replies to the client.
		session.CloseWithError(webtransport.SessionErrorCode(4000+openStreams(session)), "")
	})
	mux.HandleFunc("/close", func(w http.ResponseWriter, r *http.Request) {
		session, err := server.Upgrade(w, r)
		if err != nil {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		session.CloseWithError(4009, "bye — tschüß")
	})
	mux.HandleFunc("/reject", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("WWW-Authenticate", "Bearer")
		w.WriteHeader(http.StatusUnauthorized)
	})
	result{"port": socket.LocalAddr().(*net.UDPAddr).Port}.print()
	return server.Serve(socket)
}

// openStreams opens streams to a client; returns the number of correct replies.
func openStreams(session *webtransport.Session) int {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	right := 0
	for n := range openedStreams {
		payload := fmt.Appendf(nil, "opened %d", n)
		answer, err := roundTrip(ctx, session, payload)
		if err == nil && bytes.Equal(answer, payload) {
			right++
		}
	}
	return right
}

// echo echoes in a session until it closes.
func echo(session *webtransport.Session) {
	go echoUnidirectional(session)
	go echoDatagrams(session)
	for {
		stream, err := session.AcceptStream(context.Background())
		if err != nil {
			printClose(err)
			return
		}
		go func() {
			io.Copy(stream, stream)
			stream.Close()
		}()
	}
}

func echoUnidirectional(session *webtransport.Session) {
	for {
		incoming, err := session.AcceptUniStream(context.Background())
		if err != nil {
			return
		}
		go func() {
			data, err := io.ReadAll(incoming)
			if err != nil {
				return
			}
			outgoing, err := session.OpenUniStreamSync(context.Background())
			if err != nil {
				return
			}
			outgoing.Write(data)
			outgoing.Close()
		}()
	}
}

func echoDatagrams(session *webtransport.Session) {
	for {
		datagram, err := session.ReceiveDatagram(context.Background())
		if err != nil {
			return
		}
		session.SendDatagram(datagram)
	}
}

func printClose(err error) {
	var closed *webtransport.SessionError
	switch {
	case errors.As(err, &closed):
		result{"closed": result{"code": closed.ErrorCode, "reason": closed.Message}}.print()
	case errors.Is(err, io.EOF):
		// If the CONNECT stream ends without a capsule, the session closed without a reason.
		result{"closed": result{"code": 0, "reason": ""}}.print()
	default:
		result{"lost": err.Error()}.print()
	}
}

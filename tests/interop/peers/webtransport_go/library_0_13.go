//go:build library_0_13

package main

import (
	"crypto/tls"
	"errors"
	"net/http"

	"github.com/quic-go/quic-go/http3"
	"github.com/quic-go/webtransport-go"
)

type dialer = webtransport.Transport

func newServer(handler http.Handler, config *tls.Config) *webtransport.Server {
	server := &webtransport.Server{
		H3:                   &http3.Server{Handler: handler, TLSConfig: config},
		ApplicationProtocols: []string{"skein.1"},
	}
	webtransport.ConfigureHTTP3Server(server.H3)
	return server
}

// upgrade accepts a session, and the subprotocol that this server knows.
func upgrade(
	server *webtransport.Server, w http.ResponseWriter, r *http.Request,
) (*webtransport.Session, error) {
	return server.Upgrade(w, r)
}

func offer(dialer *dialer, _ http.Header, protocols ...string) {
	dialer.ApplicationProtocols = protocols
}

func chosen(_ *http.Response, session *webtransport.Session) string {
	return session.SessionState().ApplicationProtocol
}

// unsupported returns the missing feature of the server, if that is why dialing failed.
func unsupported(err error) string {
	var missing *webtransport.RequirementsNotMetError
	if errors.As(err, &missing) {
		return missing.Message
	}
	return ""
}

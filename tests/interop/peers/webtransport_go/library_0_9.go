//go:build !library_0_13

package main

import (
	"crypto/tls"
	"net/http"
	"strings"

	"github.com/quic-go/quic-go/http3"
	"github.com/quic-go/webtransport-go"
)

type dialer = webtransport.Dialer

// The header fields that negotiate subprotocols: this version leaves them to its user.
const (
	offeredHeader = "WT-Available-Protocols"
	chosenHeader  = "WT-Protocol"
)

func newServer(handler http.Handler, config *tls.Config) *webtransport.Server {
	return &webtransport.Server{H3: http3.Server{Handler: handler, TLSConfig: config}}
}

// upgrade accepts a session, and the subprotocol that this server knows.
func upgrade(
	server *webtransport.Server, w http.ResponseWriter, r *http.Request,
) (*webtransport.Session, error) {
	if strings.Contains(r.Header.Get(offeredHeader), `"skein.1"`) {
		w.Header().Set(chosenHeader, `"skein.1"`)
	}
	return server.Upgrade(w, r)
}

func offer(_ *dialer, header http.Header, protocols ...string) {
	header.Set(offeredHeader, `"`+strings.Join(protocols, `", "`)+`"`)
}

func chosen(response *http.Response, _ *webtransport.Session) string {
	return strings.Trim(response.Header.Get(chosenHeader), `"`)
}

// unsupported returns the missing feature of the server, if that is why dialing failed.
func unsupported(error) string {
	return ""
}

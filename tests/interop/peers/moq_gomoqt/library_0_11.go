//go:build !library_0_17

package main

import (
	"context"
	"crypto/tls"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/okdaichi/gomoqt/moqt"
	"github.com/quic-go/quic-go"
	"github.com/quic-go/webtransport-go"
)

type (
	announcementReader = moqt.AnnouncementReader
	broadcast          = moqt.Broadcast
	broadcastPath      = moqt.BroadcastPath
	groupReader        = moqt.GroupReader
	groupWriter        = moqt.GroupWriter
	session            = moqt.Session
	trackHandlerFunc   = moqt.TrackHandlerFunc
	trackMux           = moqt.TrackMux
	trackName          = moqt.TrackName
	trackReader        = moqt.TrackReader
	trackWriter        = moqt.TrackWriter

	sessionError             = moqt.SessionError
	subscribeError           = moqt.SubscribeError
	webTransportSessionError = webtransport.SessionError
	webTransportStreamError  = webtransport.StreamError
)

const (
	nextProtoH3  = moqt.NextProtoH3
	nextProtoMOQ = moqt.NextProtoMOQ
)

var (
	newBroadcast = moqt.NewBroadcast
	newFrame     = moqt.NewFrame
	newMux       = moqt.NewTrackMux
)

func listen(address string, tlsConfig *tls.Config, config *quic.Config, scenario string) error {
	server := &moqt.Server{
		Addr:            address,
		TLSConfig:       tlsConfig,
		QUICConfig:      config,
		CheckHTTPOrigin: func(*http.Request) bool { return true },
	}
	server.SetupHandler = moqt.SetupHandlerFunc(
		func(w moqt.SetupResponseWriter, r *moqt.SetupRequest) {
			mux, play, err := newPlay(scenario)
			if err != nil {
				w.Reject(moqt.SetupFailedErrorCode)
				return
			}
			session, err := moqt.Accept(w, r, mux)
			if err != nil {
				return
			}
			answer(session, play, result{"path": r.Path, "versions": r.Versions})
		},
	)
	// It cannot use another mux.
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if err := server.HandleWebTransport(w, r); err != nil {
			result{"failed": err.Error()}.print()
		}
	})
	return server.ListenAndServe()
}

func connect(
	ctx context.Context, url string, tlsConfig *tls.Config, config *quic.Config, mux *trackMux,
) (*session, error) {
	client := &moqt.Client{TLSConfig: tlsConfig, QUICConfig: config}
	return client.Dial(ctx, url, mux)
}

// ask does nothing: this version has no messages for it.
func ask(context.Context, *session) (result, error) {
	return nil, errors.New("this version cannot ask")
}

func openTrack(
	_ context.Context, session *session, path broadcastPath, name trackName, priority int,
) (*trackReader, error) {
	return session.Subscribe(path, name, &moqt.TrackConfig{
		TrackPriority: moqt.TrackPriority(priority),
	})
}

func update(track *trackReader, priority int) error {
	return track.Update(&moqt.TrackConfig{TrackPriority: moqt.TrackPriority(priority)})
}

func priorityOf(track *trackWriter) int {
	return int(track.TrackConfig().TrackPriority)
}

// openGroup retries at the limit of streams, where this version fails instead of waiting.
func openGroup(track *trackWriter) (*groupWriter, error) {
	for {
		group, err := track.OpenGroup()
		if err == nil || track.Context().Err() != nil || !isLimit(err) {
			return group, err
		}
		time.Sleep(time.Millisecond)
	}
}

func isLimit(err error) bool {
	var limit *quic.StreamLimitReachedError
	return errors.As(err, &limit) || strings.Contains(err.Error(), "too many open streams")
}

// nextUpdate waits until the subscriber changes the subscription or leaves.
func nextUpdate(track *trackWriter) bool {
	_, isOpen := <-track.Updated()
	return isOpen
}

//go:build library_0_17

package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/okdaichi/webtransport-go"
	"github.com/quic-go/quic-go"
	"github.com/qumo-dev/gomoqt/moqt"
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
	fetchedGroup = 5
	// nextURI is the address that clients are sent to.
	nextURI = "moqt://127.0.0.1:1/next"

	nextProtoH3  = moqt.NextProtoH3
	nextProtoMOQ = moqt.NextProtoMOQ
)

var (
	newBroadcast = moqt.NewBroadcast
	newFrame     = moqt.NewFrame
)

func newMux() *trackMux {
	return moqt.NewTrackMux(moqt.NewHopID())
}

func listen(address string, tlsConfig *tls.Config, config *quic.Config, scenario string) error {
	// All sessions share it, so a process can serve only one.
	mux, play, err := newPlay(scenario)
	if err != nil {
		return err
	}
	handler := moqt.HandleFunc(func(session *session) {
		answer(session, play, result{"versions": []string{session.ConnectionState().Version}})
	})
	server := &moqt.Server{
		Addr:           address,
		TLSConfig:      tlsConfig,
		QUICConfig:     config,
		TrackMux:       mux,
		Handler:        handler,
		FetchHandler:   moqt.FetchHandlerFunc(serveFetch),
		NextSessionURI: nextURI,
	}
	server.WebTransportServer = moqt.NewWebTransportServer(&moqt.WebTransportHandler{
		CheckOrigin:  func(*http.Request) bool { return true },
		TrackMux:     mux,
		Handler:      handler,
		FetchHandler: moqt.FetchHandlerFunc(serveFetch),
	})
	terminated := make(chan os.Signal, 1)
	signal.Notify(terminated, syscall.SIGTERM)
	left := make(chan struct{})
	go func() {
		<-terminated
		defer close(left)
		ctx, cancel := context.WithTimeout(context.Background(), stall)
		defer cancel()
		server.Shutdown(ctx)
	}()
	if err := server.ListenAndServe(); !errors.Is(err, moqt.ErrServerClosed) {
		return err
	}
	<-left
	return nil
}

// serveFetch serves every group of one track.
func serveFetch(group *groupWriter, request *moqt.FetchRequest) {
	if request.BroadcastPath != live || request.TrackName != "video" {
		group.CancelWrite(moqt.OutOfRangeErrorCode)
		return
	}
	for index, size := range frameSizes {
		content := make([]byte, size)
		fill(content, int(request.GroupSequence), index)
		if write(group, content) != nil {
			return
		}
	}
	// The library closes it: a close here is followed by a reset.
}

// goaway receives the address that the server sends.
var goaway = make(chan string, 1)

// ask fetches an existing and a missing group, requests a rate, and waits to be sent away.
func ask(ctx context.Context, session *session) (result, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*stall)
	defer cancel()
	fetched := func(path broadcastPath) any {
		group, err := session.Fetch(&moqt.FetchRequest{
			BroadcastPath: path, TrackName: "video", GroupSequence: fetchedGroup,
		})
		if err != nil {
			return fmt.Sprint(err)
		}
		frames, err := readAll(ctx, group)
		if err != nil {
			return fmt.Sprint(err)
		}
		wrong := 0
		for index, frame := range frames {
			if !isRight(frame, fetchedGroup, index) {
				wrong++
			}
		}
		return result{"frames": len(frames), "wrong": wrong}
	}
	// Requested before there is anything to measure.
	rates, err := session.Probe(1_000_000)
	if err != nil {
		return nil, err
	}
	seen := result{"fetched": fetched(live), "missing": fetched("/skein/missing")}
	select {
	case <-rates:
		seen["rate"] = "some"
	case <-ctx.Done():
		seen["rate"] = "no answer"
	}
	if _, err := openTrack(ctx, session, live, "goaway", firstPriority); err != nil {
		return nil, err
	}
	select {
	case seen["goaway"] = <-goaway:
	case <-ctx.Done():
	}
	session.CloseWithError(0, "")
	// Closed streams still have to arrive, and no event reports when they have.
	time.Sleep(arrival)
	return seen, nil
}

func connect(
	ctx context.Context, url string, tlsConfig *tls.Config, config *quic.Config, mux *trackMux,
) (*session, error) {
	dialer := &moqt.Dialer{
		TLSConfig:  tlsConfig,
		QUICConfig: config,
		OnGoaway:   func(uri string) { goaway <- uri },
	}
	return dialer.Dial(ctx, url, mux)
}

func openTrack(
	ctx context.Context, session *session, path broadcastPath, name trackName, priority int,
) (*trackReader, error) {
	return session.Subscribe(ctx, path, name, &moqt.SubscribeConfig{
		Priority: moqt.TrackPriority(priority),
	})
}

func update(track *trackReader, priority int) error {
	return track.Update(&moqt.SubscribeConfig{Priority: moqt.TrackPriority(priority)})
}

func priorityOf(track *trackWriter) int {
	return int(track.TrackConfig().Priority)
}

func openGroup(track *trackWriter) (*groupWriter, error) {
	return track.OpenGroup(track.Context())
}

// nextUpdate waits until the subscriber changes the subscription, or has left.
func nextUpdate(track *trackWriter) bool {
	_, err := track.ReadUpdate()
	return err == nil
}

package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"
)

// groupGap is the pause between two groups; without it, a reader would have to be as fast.
const groupGap = 10 * time.Millisecond

// arrival is the time in which written data arrives, on a busy machine.
const arrival = 500 * time.Millisecond

// publisher serves the broadcasts, and records the requests.
type publisher struct {
	mux           *trackMux
	withdrawBrief context.CancelFunc

	mutex      sync.Mutex
	subscribed []string
	updated    []int

	// closing is closed when the session should close.
	closing chan struct{}
	once    sync.Once
}

func newPublisher(mux *trackMux) *publisher {
	p := &publisher{mux: mux, closing: make(chan struct{})}
	tracks := newBroadcast()
	for name, serve := range map[trackName]func(*trackWriter) error{
		"video":    p.serveVideo,
		"many":     p.serveMany,
		"priority": p.servePriority,
		"close":    p.serveClose,
	} {
		p.register(tracks, name, serve)
	}
	mux.Publish(context.Background(), live, tracks)
	mux.Publish(context.Background(), hidden, tracks)

	withdrawn := newBroadcast()
	p.register(withdrawn, "withdraw", p.serveWithdraw)
	var ctx context.Context
	ctx, p.withdrawBrief = context.WithCancel(context.Background())
	mux.Publish(ctx, brief, withdrawn)
	return p
}

func (p *publisher) register(
	tracks *broadcast, name trackName, serve func(*trackWriter) error,
) {
	tracks.Register(name, trackHandlerFunc(func(track *trackWriter) {
		p.note(func() {
			line := fmt.Sprintf("%s %s %d", track.BroadcastPath, name, priorityOf(track))
			p.subscribed = append(p.subscribed, line)
		})
		if err := serve(track); err != nil {
			fmt.Fprintln(os.Stderr, name, err)
			return
		}
		// Returning closes the track, which must not overtake the groups.
		<-track.Context().Done()
	}))
}

func (p *publisher) note(change func()) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	change()
}

// run waits for the end: everything happens on request.
func (p *publisher) run(ctx context.Context, session *session) (result, error) {
	select {
	case <-p.closing:
		// Written data still has to arrive, and no event reports when it has.
		time.Sleep(arrival)
		session.CloseWithError(closeCode, closeReason)
		// The same for the close.
		time.Sleep(arrival)
	case <-session.Context().Done():
	case <-ctx.Done():
	}
	p.mutex.Lock()
	defer p.mutex.Unlock()
	return result{"subscribed": p.subscribed, "updated": p.updated}, nil
}

func (p *publisher) serveVideo(track *trackWriter) error {
	for group := range groups {
		writer, err := openGroup(track)
		if err != nil {
			return err
		}
		for index, size := range frameSizes {
			content := make([]byte, size)
			fill(content, group, index)
			if err := write(writer, content); err != nil {
				return err
			}
		}
		if err := writer.Close(); err != nil {
			return err
		}
		time.Sleep(groupGap)
	}
	return nil
}

// serveMany writes more groups than any window allows, as fast as it can.
func (p *publisher) serveMany(track *trackWriter) error {
	for range manyGroups {
		if err := writeGroup(track, "!"); err != nil {
			return err
		}
	}
	return nil
}

// servePriority writes a group for each priority that the subscriber sets.
func (p *publisher) servePriority(track *trackWriter) error {
	if err := writeGroup(track, strconv.Itoa(priorityOf(track))); err != nil {
		return err
	}
	if !nextUpdate(track) {
		return nil
	}
	priority := priorityOf(track)
	p.note(func() { p.updated = append(p.updated, priority) })
	return writeGroup(track, strconv.Itoa(priority))
}

func (p *publisher) serveWithdraw(track *trackWriter) error {
	if err := writeGroup(track, "withdrawn"); err != nil {
		return err
	}
	time.Sleep(arrival)
	p.mux.Publish(context.Background(), late, newBroadcast())
	p.withdrawBrief()
	return nil
}

// serveClose leaves a group open: the close of the session resets it.
func (p *publisher) serveClose(track *trackWriter) error {
	group, err := openGroup(track)
	if err != nil {
		return err
	}
	if err := write(group, []byte("closed")); err != nil {
		return err
	}
	p.once.Do(func() { close(p.closing) })
	return nil
}

func writeGroup(track *trackWriter, text string) error {
	group, err := openGroup(track)
	if err != nil {
		return err
	}
	if err := write(group, []byte(text)); err != nil {
		return err
	}
	return group.Close()
}

func write(group *groupWriter, content []byte) error {
	frame := newFrame(len(content))
	if _, err := frame.Write(content); err != nil {
		return err
	}
	return group.WriteFrame(frame)
}

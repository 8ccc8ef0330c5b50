package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"
)

// stall is the longest time of a step, on a busy machine.
const stall = 20 * time.Second

// subscribe plays everything that a publisher serves, one part after the other.
func subscribe(ctx context.Context, session *session) (result, error) {
	seen := newAnnounced()
	// Never the empty prefix: it crashes a publisher that uses this library.
	reader, err := session.AcceptAnnounce(prefix)
	if err != nil {
		return nil, fmt.Errorf("announcements: %w", err)
	}
	go seen.collect(ctx, reader)
	seen.wait(ctx, func() bool { return seen.isActive(live) && seen.isActive(brief) })

	report := result{}
	if report["video"], err = video(ctx, session); err != nil {
		return nil, fmt.Errorf("video: %w", err)
	}
	report["missing"] = result{
		"track":     rejection(ctx, session, live, "missing"),
		"broadcast": rejection(ctx, session, "/skein/missing", "video"),
	}
	if report["priority"], err = priorities(ctx, session); err != nil {
		return nil, fmt.Errorf("priority: %w", err)
	}
	if _, err := openTrack(ctx, session, brief, "withdraw", firstPriority); err != nil {
		return nil, fmt.Errorf("withdraw: %w", err)
	}
	seen.wait(ctx, func() bool { return seen.isActive(late) && !seen.isActive(brief) })
	report["announced"], report["withdrawn"] = seen.lists()
	report["closed"] = closed(ctx, session)
	session.CloseWithError(0, "")
	return report, nil
}

// video reads all groups, and checks every byte.
func video(ctx context.Context, session *session) (result, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*stall)
	defer cancel()
	track, err := openTrack(ctx, session, live, "video", firstPriority)
	if err != nil {
		return nil, err
	}
	type group struct {
		sequence uint64
		frames   [][]byte
		err      error
	}
	arrived := make(chan group, groups)
	var reading sync.WaitGroup
	for range groups {
		reader, err := track.AcceptGroup(ctx)
		if err != nil {
			break
		}
		reading.Add(1)
		go func() {
			defer reading.Done()
			frames, err := readAll(ctx, reader)
			arrived <- group{uint64(reader.GroupSequence()), frames, err}
		}()
	}
	reading.Wait()
	close(arrived)

	var all []group
	for each := range arrived {
		all = append(all, each)
	}
	// Groups may arrive out of order.
	slices.SortFunc(all, func(a, b group) int { return int(a.sequence) - int(b.sequence) })
	frames, bytes, wrong, gaps := 0, 0, 0, 0
	for place, each := range all {
		first := all[0].sequence
		if each.sequence != first+uint64(place) {
			gaps++
		}
		if each.err != nil || len(each.frames) != len(frameSizes) {
			wrong++
		}
		for index, frame := range each.frames {
			frames++
			bytes += len(frame)
			if !isRight(frame, int(each.sequence-first), index) {
				wrong++
			}
		}
	}
	return result{
		"groups": len(all), "frames": frames, "bytes": bytes, "wrong": wrong, "gaps": gaps,
	}, nil
}

// rejection returns the code with which a subscription is rejected.
func rejection(ctx context.Context, session *session, path broadcastPath, name trackName) any {
	ctx, cancel := context.WithTimeout(ctx, stall)
	defer cancel()
	track, err := openTrack(ctx, session, path, name, firstPriority)
	if err == nil {
		// Some peers accept the subscription first.
		_, err = track.AcceptGroup(ctx)
	}
	if code, isReset := resetOf(err); isReset {
		return code
	}
	return fmt.Sprint(err)
}

// priorities reads the priority that the publisher reports, before and after an update.
func priorities(ctx context.Context, session *session) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, stall)
	defer cancel()
	track, err := openTrack(ctx, session, live, "priority", firstPriority)
	if err != nil {
		return nil, err
	}
	var texts []string
	for range 2 {
		group, err := track.AcceptGroup(ctx)
		if err != nil {
			return texts, nil
		}
		frames, err := readAll(ctx, group)
		if err != nil {
			return nil, err
		}
		for _, frame := range frames {
			texts = append(texts, string(frame))
		}
		if err := update(track, secondPriority); err != nil {
			return nil, err
		}
	}
	return texts, nil
}

// closed waits for the publisher to close the session.
func closed(ctx context.Context, session *session) any {
	ctx, cancel := context.WithTimeout(ctx, stall)
	defer cancel()
	if _, err := openTrack(ctx, session, live, "close", firstPriority); err != nil {
		return fmt.Sprint(err)
	}
	select {
	case <-session.Context().Done():
	case <-ctx.Done():
		return "not closed"
	}
	// Over WebTransport the context does not report its cause, but this does.
	_, err := session.AcceptAnnounce(prefix)
	code, reason, isTold := closeOf(errors.Join(err, context.Cause(session.Context())))
	if !isTold {
		return "the code is not told"
	}
	return result{"code": code, "reason": reason}
}

func readAll(ctx context.Context, group *groupReader) ([][]byte, error) {
	if deadline, ok := ctx.Deadline(); ok {
		group.SetReadDeadline(deadline)
	}
	var frames [][]byte
	for {
		frame := newFrame(0)
		err := group.ReadFrame(frame)
		if errors.Is(err, io.EOF) {
			return frames, nil
		}
		if err != nil {
			return frames, err
		}
		frames = append(frames, slices.Clone(frame.Body()))
	}
}

// announced collects the announcements of a publisher.
type announced struct {
	mutex   sync.Mutex
	active  map[broadcastPath]bool
	changed chan struct{}
}

func newAnnounced() *announced {
	return &announced{active: map[broadcastPath]bool{}, changed: make(chan struct{}, 1)}
}

func (a *announced) collect(ctx context.Context, reader *announcementReader) {
	for {
		announcement, err := reader.ReceiveAnnouncement(ctx)
		if err != nil {
			return
		}
		path := announcement.BroadcastPath()
		a.set(path, true)
		announcement.AfterFunc(func() { a.set(path, false) })
	}
}

func (a *announced) set(path broadcastPath, isActive bool) {
	a.mutex.Lock()
	defer a.mutex.Unlock()
	a.active[path] = isActive
	select {
	case a.changed <- struct{}{}:
	default:
	}
}

func (a *announced) isActive(path broadcastPath) bool {
	a.mutex.Lock()
	defer a.mutex.Unlock()
	return a.active[path]
}

// wait returns when the condition holds, or can no longer hold.
func (a *announced) wait(ctx context.Context, isSo func() bool) {
	stalled := time.After(stall)
	for !isSo() {
		select {
		case <-a.changed:
		case <-stalled:
			return
		case <-ctx.Done():
			return
		}
	}
}

// lists returns all announced paths, and the withdrawn ones.
func (a *announced) lists() (all, withdrawn []broadcastPath) {
	a.mutex.Lock()
	defer a.mutex.Unlock()
	for path, isActive := range a.active {
		all = append(all, path)
		if !isActive {
			withdrawn = append(withdrawn, path)
		}
	}
	slices.Sort(all)
	slices.Sort(withdrawn)
	return all, withdrawn
}

package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"flag"
	"math/big"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
)

// The benchmark's end on this library, with the command line of bench/media/peer.ts.
//
//	peer bench -mode server -addr HOST:PORT -groups N -frames N -size BYTES -rate PER_SECOND
//	peer bench -mode client -url URL -groups N

const (
	benchPath = "/bench"
	// stampBytes is the size of a frame's header: time of writing, group, and number in the group.
	stampBytes = 16
)

// benchWork describes the content that a publisher writes.
type benchWork struct {
	groups, frames, size int
	// rate is in groups per second; 0 means as many as possible.
	rate float64
}

func bench(args []string) error {
	flags := flag.NewFlagSet("bench", flag.ExitOnError)
	mode := flags.String("mode", "server", "server or client")
	address := flags.String("addr", "", "where to listen")
	url := flags.String("url", "", "where to")
	var work benchWork
	flags.IntVar(&work.groups, "groups", 1000, "groups")
	flags.IntVar(&work.frames, "frames", 10, "frames of a group")
	flags.IntVar(&work.size, "size", 1200, "bytes of a frame")
	flags.Float64Var(&work.rate, "rate", 0, "groups a second")
	flags.Parse(args)
	work.size = max(work.size, stampBytes)
	if *mode == "client" {
		return benchClient(*url, work.groups)
	}
	return benchServer(*address, work)
}

func benchServer(address string, work benchWork) error {
	certificate, err := selfSigned()
	if err != nil {
		return err
	}
	hash := sha256.Sum256(certificate.Certificate[0])
	result{"event": "cert", "sha256": hex.EncodeToString(hash[:])}.print()
	config := &tls.Config{
		Certificates: []tls.Certificate{certificate},
		NextProtos:   []string{nextProtoH3, nextProtoMOQ},
	}
	benched = work
	result{"event": "ready", "addr": address}.print()
	return listen(address, config, benchConfig(), "bench")
}

// benched is the work of a process.
var benched benchWork

// newBench publishes the broadcast; its sessions do nothing themselves.
func newBench(mux *trackMux) play {
	mux.PublishFunc(context.Background(), benchPath, func(track *trackWriter) {
		benched.write(track)
		// Returning closes the track, which must not overtake the groups.
		<-track.Context().Done()
	})
	return func(_ context.Context, session *session) (result, error) {
		<-session.Context().Done()
		return result{"event": "session_closed"}, nil
	}
}

func (w benchWork) write(track *trackWriter) {
	content := make([]byte, w.size)
	frame := newFrame(w.size)
	began := time.Now()
	for group := range w.groups {
		if w.rate > 0 {
			due := time.Duration(float64(group) / w.rate * float64(time.Second))
			time.Sleep(time.Until(began.Add(due)))
		}
		writer, err := openGroup(track)
		if err != nil {
			return
		}
		for index := range w.frames {
			binary.BigEndian.PutUint64(content, uint64(time.Now().UnixNano()))
			binary.BigEndian.PutUint32(content[8:], uint32(group))
			binary.BigEndian.PutUint32(content[12:], uint32(index))
			frame.Reset()
			if _, err := frame.Write(content); err != nil {
				return
			}
			if err := writer.WriteFrame(frame); err != nil {
				return
			}
		}
		if err := writer.Close(); err != nil {
			return
		}
	}
}

// benchMeter collects a subscriber's measurements.
type benchMeter struct {
	mutex       sync.Mutex
	latencies   []int64
	groups      int
	bytes       int
	first, last time.Time
}

func benchClient(url string, groups int) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	config := &tls.Config{InsecureSkipVerify: true}
	if url[:4] == "moqt" {
		config.NextProtos = []string{nextProtoMOQ}
	}
	session, err := connect(ctx, url, config, benchConfig(), newMux())
	if err != nil {
		return err
	}
	track, err := openTrack(ctx, session, benchPath, "video", 0)
	if err != nil {
		return err
	}
	meter := &benchMeter{}
	var reading sync.WaitGroup
	for range groups {
		group, err := track.AcceptGroup(ctx)
		if err != nil {
			break
		}
		reading.Go(func() { meter.read(group) })
	}
	reading.Wait()
	meter.print()
	return session.CloseWithError(0, "")
}

func (m *benchMeter) read(group *groupReader) {
	frame := newFrame(0)
	for group.ReadFrame(frame) == nil {
		now, body := time.Now(), frame.Body()
		m.mutex.Lock()
		if m.first.IsZero() {
			m.first = now
		}
		m.last = now
		m.bytes += len(body)
		written := int64(binary.BigEndian.Uint64(body))
		m.latencies = append(m.latencies, now.UnixNano()-written)
		m.mutex.Unlock()
	}
	m.mutex.Lock()
	defer m.mutex.Unlock()
	m.groups++
}

func (m *benchMeter) print() {
	slices.Sort(m.latencies)
	at := func(quantile float64) float64 {
		if len(m.latencies) == 0 {
			return 0
		}
		return float64(m.latencies[int(quantile*float64(len(m.latencies)-1))]) / 1e3
	}
	seconds := m.last.Sub(m.first).Seconds()
	result{
		"event": "result", "groups": m.groups, "frames": len(m.latencies), "bytes": m.bytes,
		"seconds": seconds, "groups_per_s": float64(m.groups) / seconds,
		"mb_per_s":   float64(m.bytes) / seconds / 1e6,
		"lat_us_p50": at(0.5), "lat_us_p99": at(0.99), "lat_us_max": at(1),
	}.print()
}

func benchConfig() *quic.Config {
	config := quicConfig()
	config.MaxIncomingUniStreams = 1 << 16
	return config
}

// selfSigned creates a certificate that clients accept by its hash.
func selfSigned() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(24 * time.Hour),
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}

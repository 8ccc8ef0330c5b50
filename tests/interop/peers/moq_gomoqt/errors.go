package main

import (
	"errors"

	"github.com/quic-go/quic-go"
)

// resetOf returns the code with which a stream was reset.
func resetOf(err error) (code uint64, isReset bool) {
	if rejected, ok := errors.AsType[*subscribeError](err); ok {
		return uint64(rejected.SubscribeErrorCode()), true
	}
	if reset, ok := errors.AsType[*quic.StreamError](err); ok {
		return uint64(reset.ErrorCode), true
	}
	if reset, ok := errors.AsType[*webTransportStreamError](err); ok {
		return uint64(reset.ErrorCode), true
	}
	return 0, false
}

// closeOf returns the close of a session. Over WebTransport the session's close counts, although
// its connection is closed as well.
func closeOf(err error) (code uint64, reason string, isTold bool) {
	if closed, ok := errors.AsType[*webTransportSessionError](err); ok {
		return uint64(closed.ErrorCode), closed.Message, true
	}
	if closed, ok := errors.AsType[*sessionError](err); ok {
		return uint64(closed.SessionErrorCode()), closed.ErrorMessage, true
	}
	if closed, ok := errors.AsType[*quic.ApplicationError](err); ok {
		return uint64(closed.ErrorCode), closed.ErrorMessage, true
	}
	return 0, "", false
}

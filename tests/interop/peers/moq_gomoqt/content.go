package main

// The published content, the same for every peer and for us.
const (
	prefix = "/skein/"
	// live has all tracks but one.
	live = "/skein/live"
	// brief is withdrawn when its track "withdraw" is subscribed to; late replaces it.
	brief = "/skein/brief"
	late  = "/skein/late"
	// hidden is outside the requested prefix.
	hidden = "/other/hidden"

	groups     = 120
	manyGroups = 2000

	firstPriority  = 7
	secondPriority = 200

	closeCode   = 42
	closeReason = "grüße"
)

// frameSizes lists the sizes of each group's frames: sizes at which the encoding of a length
// changes, and one that exceeds a packet.
var frameSizes = []int{0, 1, 63, 64, 1200, 16384}

// fill writes the content of a frame; no two frames are alike.
func fill(frame []byte, group, index int) {
	for n := range frame {
		frame[n] = byte(group*7 + index*13 + n)
	}
}

// isRight checks the content of a frame.
func isRight(frame []byte, group, index int) bool {
	if group < 0 || index >= len(frameSizes) || len(frame) != frameSizes[index] {
		return false
	}
	for n, found := range frame {
		if found != byte(group*7+index*13+n) {
			return false
		}
	}
	return true
}

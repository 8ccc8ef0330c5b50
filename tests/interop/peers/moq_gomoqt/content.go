package main

// What is published, by every peer and by us alike.
const (
	prefix = "/skein/"
	// live has all tracks but one.
	live = "/skein/live"
	// brief is withdrawn once its track "withdraw" is subscribed to; late comes instead of it.
	brief = "/skein/brief"
	late  = "/skein/late"
	// hidden is not below the prefix that is asked for.
	hidden = "/other/hidden"

	groups     = 120
	manyGroups = 2000

	firstPriority  = 7
	secondPriority = 200

	closeCode   = 42
	closeReason = "grüße"
)

// frameSizes are those of the frames of each group: where the lengths of lengths change, and more
// than one packet holds.
var frameSizes = []int{0, 1, 63, 64, 1200, 16384}

// fill writes the content of a frame: no two look alike.
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

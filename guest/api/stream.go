package api

import (
	"io"
	"time"

	"github.com/hashicorp/yamux"
)

// StreamWindow is how many bytes of one stream may be under way unread. Big
// enough that a port at 190 MB/s is not throttled by the round trip of a window
// update, small enough that a stalled reader costs little memory.
const StreamWindow = 1 << 20

// closeTimeout is how long the host keeps a stream that it has closed, and the
// guest has not.
const closeTimeout = time.Minute

// Host begins the host's session on stream. The host is the yamux server and
// opens every stream; the agent (guest/agent/internal/mux) accepts. A guest that
// sends what no agent sends ends the session, whose Accept then returns an error
// that is ErrFrame. The session closes stream when it ends.
func Host(stream io.ReadWriteCloser) (*yamux.Session, error) {
	return yamux.Server(&frames{ReadWriteCloser: stream}, streamConfig())
}

// streamConfig is the host's configuration of yamux.
//
// All timeouts but one are off: a paused machine answers nothing for as long as
// it is paused, and a reader may be slower than any limit. The first stream
// carries ttrpc; each later one is named by its id in a request: by Stdio,
// Resolver or Connect.
//
// A stdin stream ends when the host Closes it; the agent Closes its side when
// nobody reads the input any more. A stdout or stderr stream ends when the
// agent Closes it, all bytes sent; a host that Closes it first says that nobody
// reads the output any more, and the writer gets SIGPIPE. Both sides Close
// every stream in the end. One that the guest does not close is given up
// closeTimeout after the host has closed it: it would be kept for ever, with all
// that the guest has sent on it. It is reset, too, and an agent that was only
// slow reads what it was sent, and then the end, all the same.
func streamConfig() *yamux.Config {
	return &yamux.Config{
		AcceptBacklog:   256,
		EnableKeepAlive: false,
		// Unused, but must be positive.
		KeepAliveInterval:      time.Hour,
		ConnectionWriteTimeout: 100 * 365 * 24 * time.Hour,
		MaxStreamWindowSize:    StreamWindow,
		StreamOpenTimeout:      0,
		StreamCloseTimeout:     closeTimeout,
		LogOutput:              io.Discard,
	}
}

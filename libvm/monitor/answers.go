//go:build linux

package monitor

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/runm/runm/guest/api"
)

const (
	// maxElements is how many processes, spans and the like one answer may have.
	// The guest's kernel has 1024 pids for each CPU (PIDS_PER_CPU_DEFAULT), and is
	// built for 64; two bytes of a message become a hundred of memory.
	maxElements = 64 << 10
	// maxUnanswered bounds the requests that a guest leaves unanswered: for each
	// the host keeps a goroutine. A process that runs has one, and three of the
	// 4096 streams that an agent takes.
	maxUnanswered = 4096
	// maxStats bounds a container's counters in bytes of JSON.
	maxStats = 256 << 10
)

var errAnswer = errors.New("the guest's answer is not believed")

// intercept stands around each call to the agent.
func (g *guest) intercept(ctx context.Context, req *ttrpc.Request, resp *ttrpc.Response, _ *ttrpc.UnaryClientInfo, invoke ttrpc.Invoker) error {
	if g.unanswered.Add(1) > maxUnanswered {
		g.unanswered.Add(-1)
		return fmt.Errorf("%s: the guest has left %d requests unanswered", req.Method, maxUnanswered)
	}
	counted := func(ctx context.Context, req *ttrpc.Request, resp *ttrpc.Response) error {
		defer g.unanswered.Add(-1)
		return invoke(ctx, req, resp)
	}
	end := g.traceCall(ctx, req)
	err := within(ctx, req, resp, counted)
	end()
	if err != nil {
		return err
	}
	return checkAnswer(req.Method, resp.Payload)
}

// within makes a call and gives up waiting for it when ctx is done. The library
// looks at ctx only when the request is written, which a guest that reads nothing
// prevents; what is left behind ends with the machine.
func within(ctx context.Context, req *ttrpc.Request, resp *ttrpc.Response, invoke ttrpc.Invoker) error {
	if ctx.Done() == nil {
		return invoke(ctx, req, resp)
	}
	own := &ttrpc.Response{} // the caller's must not change after it has gone
	answered := make(chan error, 1)
	go func() { answered <- invoke(ctx, req, own) }()
	select {
	case err := <-answered:
		resp.Status, resp.Payload = own.Status, own.Payload
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// checkAnswer bounds what an answer becomes when it is decoded.
func checkAnswer(method string, payload []byte) error {
	m := api.File_agent_proto.Services().ByName("Agent").Methods().ByName(protoreflect.Name(method))
	if m == nil {
		return fmt.Errorf("%w: to a request %q that there is not", errAnswer, method)
	}
	left := maxElements
	if err := countElements(m.Output(), payload, &left); err != nil {
		return fmt.Errorf("%w: %s: %w", errAnswer, method, err)
	}
	return nil
}

// countElements takes from left what of message, encoded as b, is repeated.
func countElements(message protoreflect.MessageDescriptor, b []byte, left *int) error {
	for len(b) > 0 {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		b = b[n:]
		size := protowire.ConsumeFieldValue(number, kind, b)
		if size < 0 {
			return protowire.ParseError(size)
		}
		field := message.Fields().ByNumber(number)
		if field != nil && field.IsList() {
			if *left--; *left < 0 {
				return fmt.Errorf("more than %d of %s", maxElements, field.Name())
			}
		}
		if field != nil && field.Message() != nil && kind == protowire.BytesType {
			inner, _ := protowire.ConsumeBytes(b)
			if err := countElements(field.Message(), inner, left); err != nil {
				return err
			}
		}
		b = b[size:]
	}
	return nil
}

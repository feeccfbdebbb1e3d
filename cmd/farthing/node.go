package main

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/farthing402/farthing/clearing"
	"github.com/farthing402/farthing/x402"
)

// Run serves and works until ctx ends, then lets open requests finish. Any number of nodes do so on one database: each
// admits, certifies and answers, and one leads.
func (h *house) Run(ctx context.Context) error {
	served, settled := make(chan error, 1), make(chan error, 1)
	go func() { served <- h.server.Serve(h.listener) }()
	working, rest := context.WithCancel(ctx)
	go func() { settled <- h.settle(working) }()
	var workers sync.WaitGroup
	for _, work := range []func(context.Context){h.lead, h.watch, h.Webhooks.Run} {
		workers.Go(func() { work(working) })
	}
	defer func() { rest(); workers.Wait(); h.close() }()
	select {
	case err := <-served:
		rest()
		<-settled
		return err
	case err := <-settled:
		if ctx.Err() == nil {
			return err
		} // else whoever waited for a settlement is answered
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	err := h.server.Shutdown(stop)
	<-served
	return err
}

// settle brings transfers to the chain. One node of a database does: what the lanes have sent is in one process's care.
func (h *house) settle(ctx context.Context) error {
	if len(h.Desk.Lanes) == 0 || !h.Store.Served() {
		return h.face.Run(ctx)
	}
	ran, err := h.Store.Alone(ctx, "desk", h.face.Run)
	if err == nil && !ran {
		err = errDeskTaken
	}
	return err
}

var errDeskTaken = fail("config_invalid", "another node of this database settles transfers").hint("start this one without --lane")

// note keeps what goes wrong in a part of the work, nothing while all is well, and logs when it changes.
func (h *house) note(trouble *atomic.Pointer[string], part string, err error) {
	before := trouble.Load()
	if err == nil {
		if trouble.Store(nil); before != nil {
			h.Log.Info("clearing house recovered", "part", part, "was", *before)
		}
		return
	}
	text := err.Error()
	trouble.Store(&text)
	if before == nil || *before != text {
		h.Log.Warn("clearing house has trouble", "part", part, "error", text)
	}
}

// readable says whether the database answers.
func (h *house) readable(ctx context.Context) error {
	return h.Store.Clearing().Read(ctx, func(clearing.Tx) error { return nil })
}

// healthy says whether the work on the chain goes on, as far as this node can tell: its own if it leads, else what it sees of
// another's.
func (h *house) healthy(context.Context) error { return h.ails() }

func (h *house) ails() error {
	for _, trouble := range []*atomic.Pointer[string]{&h.trouble, &h.lag} {
		if text := trouble.Load(); text != nil {
			return errors.New(*text)
		}
	}
	return nil
}

// certifies says whether the node may admit guarantees; see [house.compare] and [house.quiet].
func (h *house) certifies() error {
	if h.Restored && h.Now().Before(h.opened.Add(h.quiet())) {
		return x402.Errorf("house_behind", "the clearing house was restored and certifies nothing until %s", h.opened.Add(h.quiet()).UTC().Format(time.RFC3339))
	}
	if h.Now().UnixNano() > h.freshUntil.Load() {
		return x402.Errorf("house_behind", "the clearing house has not followed the chain for more than %s", h.slack())
	}
	return nil
}

// quiet is how long after a backup was restored nothing is certified. What was certified after the backup is forgotten, and
// would be certified anew if it came again, perhaps in another cycle, which nobody could tell from fraud. All of it bears a
// time of before the restart, and after so long such a time is too old.
func (h *house) quiet() time.Duration { return h.House.Past + h.House.Future }

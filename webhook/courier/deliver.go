package courier

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/farthing402/farthing/webhook"
)

// The rule of trying again: 5 s after the first attempt, four times as long after each further one, but at most 12 h,
// give or take a fifth; given up 72 h after the first.
const (
	retryFirst  = 5 * time.Second
	retryFactor = 4
	retryMax    = 12 * time.Hour
	giveUpAfter = 72 * time.Hour
	// disableAfter is how long an endpoint may be failing, with something given up and nothing arriving, before it is
	// sent nothing any more.
	disableAfter = 14 * 24 * time.Hour
	grace        = 5 * time.Second // for attempts under way when the process ends
)

// backoff is how long to wait after so many attempts.
func backoff(tries int, jitter float64) time.Duration {
	wait := retryFirst
	for range tries - 1 {
		if wait *= retryFactor; wait >= retryMax {
			wait = retryMax
			break
		}
	}
	return time.Duration(float64(wait) * (0.8 + 0.4*jitter))
}

// attempt sends a job once.
func (c *Courier) attempt(ctx context.Context, j Job) (a Attempt, retryAfter time.Duration) {
	a.At = c.c.Now()
	defer func() { a.Elapsed = max(0, c.c.Now().Sub(a.At)) }()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, j.Endpoint.URL, bytes.NewReader(j.Body))
	if err != nil {
		a.Trouble = "its URL is none"
		return a, 0
	}
	secrets := []webhook.Secret{j.Endpoint.Secret}
	if !j.Endpoint.Before.IsZero() && a.At.Before(j.Endpoint.BeforeUntil) {
		secrets = append(secrets, j.Endpoint.Before)
	}
	webhook.Sign(r.Header, j.Event, a.At, j.Body, secrets...)
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("User-Agent", "farthing-webhooks/1")
	resp, err := c.c.Client.Do(r)
	if err != nil {
		a.Trouble = trouble(err)
		return a, 0
	}
	defer resp.Body.Close()
	if resp.ContentLength >= 0 && resp.ContentLength <= responseBytesRead {
		_, _ = io.CopyN(io.Discard, resp.Body, responseBytesRead) // what it says does not matter; its connection may be used again
	}
	switch a.Status = resp.StatusCode; {
	case a.Status/100 == 3:
		a.Trouble = "it redirects, and redirects are not followed"
	case a.Status/100 != 2:
		a.Trouble = fmt.Sprintf("it answered %d", a.Status)
	}
	return a, after(resp.Header.Get("Retry-After"))
}

// after reads a Retry-After in seconds, up to what this side would wait at most.
func after(text string) time.Duration {
	n, err := strconv.ParseUint(text, 10, 31)
	if err != nil {
		return 0
	}
	return min(time.Duration(n)*time.Second, retryMax)
}

// deliver attempts a job and records what came of it.
func (c *Courier) deliver(ctx context.Context, j Job) error {
	a, retryAfter := c.attempt(ctx, j)
	if ctx.Err() != nil && a.Status == 0 {
		// Nobody knows whether it arrived. The claim runs out, and it is sent again.
		return nil
	}
	o := c.decide(j, a, retryAfter)
	switch o.State {
	case Delivered:
		c.delivered.Add(1)
	case Failed:
		c.givenUp.Add(1)
		fallthrough
	default:
		c.failed.Add(1)
	}
	if o.Status != "" {
		c.c.Log.Info("webhook endpoint "+string(o.Status), "endpoint", j.Endpoint.ID, "reason", o.Reason)
	}
	return c.c.Book.Report(context.WithoutCancel(ctx), o)
}

// decide says what an attempt means for a delivery and its endpoint.
func (c *Courier) decide(j Job, a Attempt, retryAfter time.Duration) Outcome {
	o := Outcome{Job: j, Attempt: a}
	switch {
	case a.Status/100 == 2:
		if o.State = Delivered; j.Endpoint.Status == Failing {
			o.Status = Enabled
		}
		return o
	case a.Status == http.StatusGone:
		o.State, o.Status, o.Reason = Failed, Disabled, "it answered 410: gone"
		return o
	}
	ended := a.At.Add(a.Elapsed)
	o.State, o.DueAt = Pending, ended.Add(max(backoff(j.Tries+1, c.c.Jitter()), retryAfter))
	if o.DueAt.Sub(j.Since) < giveUpAfter {
		return o
	}
	o.State, o.DueAt = Failed, time.Time{}
	o.Reason = fmt.Sprintf("an event could not be delivered for %s: %s", giveUpAfter, a.Trouble)
	switch since := j.Endpoint.FailingSince; {
	case since.IsZero():
		o.Status, o.FailingSince = Failing, ended
	case ended.Sub(since) >= disableAfter:
		o.Status = Disabled
		o.Reason = fmt.Sprintf("nothing could be delivered for %s: %s", disableAfter, a.Trouble)
	default:
		o.Status, o.FailingSince = Failing, since
	}
	return o
}

// pool runs deliveries, as many as there are and at most workersMax.
type pool struct {
	*Courier
	free  chan struct{} // holds one element for each worker that is not at work
	freed chan struct{} // says that one has become free
	work  sync.WaitGroup
}

func newPool(c *Courier) *pool {
	p := &pool{Courier: c, free: make(chan struct{}, workersMax), freed: make(chan struct{}, 1)}
	for range workersMax {
		p.free <- struct{}{}
	}
	return p
}

// fill claims what is due and sets workers to it, until nothing is due or all are at work. While there is more than
// endpoints take at once, it goes on as they become free. It says how many it has claimed.
func (p *pool) fill(ctx context.Context) (n int, err error) {
	for {
		now := p.c.Now()
		jobs, err := p.c.Book.Claim(ctx, p.c.Node, now, now.Add(claim), len(p.free), perEndpointMax)
		if err != nil {
			return n, err
		}
		n += len(jobs)
		for _, j := range jobs {
			<-p.free // fill alone takes from it
			p.work.Go(func() {
				lasting, end := lasting(ctx)
				defer end()
				if err := p.deliver(lasting, j); err != nil {
					p.c.Log.Warn("outcome of a webhook not recorded", "endpoint", j.Endpoint.ID, "event", j.Event, "error", err)
				}
				p.free <- struct{}{}
				select {
				case p.freed <- struct{}{}:
				default:
				}
			})
		}
		if len(jobs) == 0 && len(p.free) == workersMax {
			return n, nil
		}
		select {
		case <-p.freed:
		case <-time.After(lookEvery):
			return n, nil
		case <-ctx.Done():
			return n, nil
		}
	}
}

// lasting returns a context that goes on for a while after ctx has ended, so that who stops a house does not make
// receivers see an event twice.
func lasting(ctx context.Context) (context.Context, context.CancelFunc) {
	longer, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		rest := time.AfterFunc(grace, cancel)
		context.AfterFunc(longer, func() { rest.Stop() })
	})
	return longer, func() { stop(); cancel() }
}

// Deliver makes every attempt that is due, and returns when all have ended: [Courier.Run] for who has no need of a loop.
func (c *Courier) Deliver(ctx context.Context) error {
	for p := newPool(c); ; {
		n, err := p.fill(ctx)
		p.work.Wait()
		if err != nil || n == 0 {
			return err
		}
	}
}

// repeat does something again and again until ctx ends. Trouble is logged when it begins and when it changes.
func (c *Courier) repeat(ctx context.Context, trouble string, do func(context.Context) error) {
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	last := ""
	for {
		err := do(ctx)
		if ctx.Err() != nil {
			return
		}
		text := ""
		if err != nil && !errors.Is(err, ErrMoved) {
			text = err.Error()
		}
		if text != "" && text != last {
			c.c.Log.Warn(trouble, "error", text)
		}
		last = text
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

package main

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/farthing402/farthing/clearing"
	"github.com/farthing402/farthing/guarantee"
)

// percentile returns the time that so many of a hundred stay below.
func percentile(times []time.Duration, of float64) time.Duration {
	times = slices.Sorted(slices.Values(times))
	return times[min(len(times)-1, int(float64(len(times))*of/100))]
}

// offer hands guarantees to the house one by one at a steady pace, whether or not it keeps up, and returns how long each
// waited for its certificate from the moment at which it was due. It ends early when stop is closed.
func (h *benchHouse) offer(ctx context.Context, list []guarantee.Signed, perSecond float64, now time.Time, stop <-chan struct{}) ([]time.Duration, error) {
	times := make([]time.Duration, len(list))
	errs := make([]error, len(list))
	var all sync.WaitGroup
	began := time.Now()
	sent := 0
	for running := true; running && sent < len(list) && ctx.Err() == nil; {
		due := min(len(list), 1+int(time.Since(began).Seconds()*perSecond))
		for ; sent < due; sent++ {
			i, at := sent, began.Add(time.Duration(float64(sent)/perSecond*float64(time.Second)))
			all.Go(func() {
				r := h.house.Admit(ctx, []clearing.Request{{Signed: list[i], Batch: true}}, now)[0]
				if times[i], errs[i] = time.Since(at), r.Err; r.Err == nil && r.Replayed {
					errs[i] = errors.New("guarantee was admitted before")
				}
			})
		}
		select {
		case <-stop:
			running = false
		case <-time.After(time.Until(began.Add(time.Duration(float64(sent) / perSecond * float64(time.Second))))):
		}
	}
	all.Wait()
	return times[:sent], errors.Join(append(errs[:sent], ctx.Err())...)
}

// offered has guarantees come one by one, so many for each that the machine could recover, and tells how long all but one
// in a hundred wait at most, in milliseconds.
func (b *bench) offered(ctx context.Context, share float64) (side, error) {
	const key = "recoveries a second"
	c2, known := b.shared[key].(float64)
	if !known {
		r := b.recover()
		runtime.GC()
		took, err := r.slice(ctx, r.count)
		if err != nil {
			return side{}, err
		}
		c2 = float64(r.count) / took.Seconds()
		b.shared[key] = c2
	}
	h, err := b.openHouse(ctx, houseOptions{server: true})
	if err != nil {
		return side{}, err
	}
	rate := c2 * share
	return side{count: max(1, int(rate*b.Sizes.Offered.Seconds())), check: h.check, close: h.close, slice: func(ctx context.Context, n int) (time.Duration, error) {
		list, err := h.next(ctx, n)
		if err != nil {
			return 0, err
		}
		times, err := h.offer(ctx, list, rate, b.Now, nil)
		if err != nil {
			return 0, err
		}
		return inMilliseconds(percentile(times, 99), n), nil
	}}, nil
}

// inMilliseconds is what a side that counts returns for n things to say so many milliseconds.
func inMilliseconds(d time.Duration, n int) time.Duration {
	return d * time.Duration(once/time.Millisecond) * time.Duration(n)
}

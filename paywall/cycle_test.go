package paywall

import (
	"testing"
	"time"

	"github.com/farthing402/farthing/api/client"
	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/guarantee"
)

// A clearing house whose answer was lost certifies a payment again for the cycle that it admitted it to, which may be
// over by then. One that puts a new payment into such a cycle would leave the payee with nothing.
func TestCyclesThatACertificateMayName(t *testing.T) {
	t.Parallel()
	asset := evm.Address{1}
	schedules := []client.Schedule{{Asset: asset, From: 1000, Length: 60 * time.Second, Cutoff: 10 * time.Second}}
	for _, c := range []struct {
		name       string
		cycle      uint64
		since, now int64
		lives      bool
	}{
		{"the running cycle", 1600, 1610, 1610, true},
		{"one that takes notes still", 1540, 1605, 1605, true},
		{"one long over", 1420, 1610, 1610, false},
		{"one that was running when the payment was reserved", 1420, 1430, 1610, true},
		{"one that was over even then", 1300, 1430, 1610, false},
		{"one between then and now", 1480, 1430, 1610, true},
		{"one that has not begun", 1720, 1610, 1610, false},
		{"no boundary", 1601, 1610, 1610, false},
	} {
		got := cycleLives(schedules, asset, guarantee.CycleID(asset, c.cycle), time.Unix(c.since, 0), time.Unix(c.now, 0))
		if got != c.lives {
			t.Errorf("%s: %v", c.name, got)
		}
	}
	if !cycleLives(schedules, evm.Address{2}, evm.Hash{}, time.Unix(1610, 0), time.Unix(1610, 0)) {
		t.Error("an asset without a schedule: its house is to be believed")
	}
}

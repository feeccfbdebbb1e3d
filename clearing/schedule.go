package clearing

import (
	"github.com/farthing402/farthing/evm"
)

// scheduled returns the cycle of an asset that its schedules have at t, and whether they have one.
func scheduled(schedules []Schedule, t uint64) (Cycle, Schedule, bool) {
	for i := len(schedules) - 1; i >= 0; i-- {
		if s := schedules[i]; s.From <= t && s.Length > 0 {
			return s.at(t), s, true
		}
	}
	return Cycle{}, Schedule{}, false
}

// openCycle returns the cycle that takes an asset's guarantees now: the one whose time it is, or, if another clock has
// frozen that already, the next. Its status is Open unless the asset has none. isNew says that it has no row yet.
func (h *House) openCycle(v *view, asset evm.Address, now uint64) (c Cycle, isNew bool, err error) {
	schedules, err := v.schedulesOf(asset)
	if err != nil {
		return Cycle{}, false, err
	}
	for t := now; ; t = c.End {
		next, _, ok := scheduled(schedules, t)
		if !ok {
			return Cycle{}, false, nil
		}
		row, found, err := v.cycle(next.Ref)
		if err != nil {
			return Cycle{}, false, err
		}
		if !found {
			return next, true, nil
		}
		if row.Status == Open {
			return row, false, nil
		}
		c = next
	}
}

func (v *view) schedulesOf(asset evm.Address) ([]Schedule, error) {
	if list, ok := v.schedules[asset]; ok {
		return list, nil
	}
	list, err := v.tx.Schedules(asset)
	if err == nil {
		v.schedules[asset] = list
	}
	return list, err
}

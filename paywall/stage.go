package paywall

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/farthing402/farthing/money"
)

// stage is one part of a work that is sold in parts.
type stage struct {
	name    string
	percent uint64 // of the price
}

// stages are all parts, in their order; their percents come to 100.
type stages []stage

// stagesMax bounds a list that travels in every offer.
const stagesMax = 16

func (rt *route) parseStages(parts []string) stages {
	list, err := parseStages(parts)
	if err != nil {
		rt.wrong("stages: %w", err)
	}
	return list
}

// parseStages reads "outline 20%".
func parseStages(parts []string) (list stages, err error) {
	if len(parts) < 2 || len(parts) > stagesMax {
		return nil, fmt.Errorf("%d of them: between 2 and %d are sold", len(parts), stagesMax)
	}
	var sum uint64
	for _, part := range parts {
		words := strings.Fields(part)
		if len(words) != 2 || !strings.HasSuffix(words[1], "%") || !plainWord(words[0]) {
			return nil, fmt.Errorf("%q is not a name and its share, such as outline 20%%", clip(part))
		}
		percent, err := strconv.ParseUint(strings.TrimSuffix(words[1], "%"), 10, 7)
		if err != nil || percent == 0 {
			return nil, fmt.Errorf("%q: the share is a whole percentage", clip(part))
		}
		for _, other := range list {
			if other.name == words[0] {
				return nil, fmt.Errorf("%q is there twice", words[0])
			}
		}
		list, sum = append(list, stage{words[0], percent}), sum+percent
	}
	if sum != 100 {
		return nil, fmt.Errorf("they come to %d%%, not to 100%%", sum)
	}
	return list, nil
}

func plainWord(s string) bool {
	return s != "" && len(s) <= 32 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") == ""
}

// String is the list as offers show it.
func (s stages) String() string {
	parts := make([]string, len(s))
	for i, one := range s {
		parts[i] = fmt.Sprintf("%s %d%%", one.name, one.percent)
	}
	return strings.Join(parts, listMark)
}

// upTo returns the share of the price that is earned with a stage and all before it, in percent.
func (s stages) upTo(name string) (percent uint64, ok bool) {
	for _, one := range s {
		percent += one.percent
		if one.name == name {
			return percent, true
		}
	}
	return 0, false
}

// earned is what is charged for stages that come to a percentage of the price: rounded down, so that what is not wholly
// earned stays the buyer's, and one unit at least.
func earned(price money.Amount, percent uint64) money.Amount {
	return money.Max(price.Share(percent, 100), money.Units(1))
}

// Stage says, and writes down before it returns, that a stage of the work is done, and with it every stage before it: their share of the price is charged even
// if what follows fails. A name that is no stage of the route is a fault of the handler and makes the purchase void.
func Stage(ctx context.Context, name string) {
	heard := false
	say(ctx, func(s *said) { s.stages, heard = append(s.stages, name), true })
	if w := workOf(ctx); heard && w.reached != nil {
		w.reached(name)
	}
}

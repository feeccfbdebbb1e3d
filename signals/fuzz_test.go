package signals

import (
	"strings"
	"testing"
)

// What is read is never negative, and its sum for a person is a sum.
func FuzzParseCost(f *testing.F) {
	for _, text := range []string{"0", "$0.00004 per call", "$0.00002 per second", "$0.00008 per MB out", "2 %", "2%", "100%", "", "$1 per", "1 USDC", "$99999999999999999999999999 per GiB in"} {
		f.Add(text, "0.8 seconds, 20 kB out, 2 GiB in, 7 images")
	}
	f.Fuzz(func(t *testing.T, text, uses string) {
		u, err := ParseUsage(uses)
		if err != nil {
			u = nil
		}
		for m, n := range u {
			if n.Sign() < 0 || m.Kind == "" {
				t.Fatalf("%q uses %s of %q", uses, n.Decimal(), m)
			}
		}
		for _, name := range []string{"model", FailedRequests, DefaultLoss} {
			c, err := ParseCost(name, text)
			if err != nil {
				continue
			}
			total, _ := Sum([]Cost{c}, u)
			if each := total.PerCall(); each.Sign() < 0 || !strings.HasPrefix(each.Up(), "$") || each.Cmp(total.Work) < 0 {
				t.Fatalf("%s of %q costs %v", name, text, each)
			}
		}
	})
}

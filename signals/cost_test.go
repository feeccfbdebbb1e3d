package signals

import (
	"errors"
	"testing"

	"github.com/farthing402/farthing/money"
)

func costs(t *testing.T, named ...string) []Cost {
	t.Helper()
	var cs []Cost
	for i := 0; i < len(named); i += 2 {
		c, err := ParseCost(named[i], named[i+1])
		if err != nil {
			t.Fatal(err)
		}
		cs = append(cs, c)
	}
	return cs
}

func usage(t *testing.T, text string) Usage {
	t.Helper()
	u, err := ParseUsage(text)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func TestCostsByTheSellersNamesAddUp(t *testing.T) {
	t.Parallel()
	cs := costs(t, "model", "$0.00004 per call", "data", "0", "compute", "$0.00002 per second", "bandwidth", "$0.00008 per MB out",
		"observability", "0", "support", "$0.00001 per call", "downstream spend", "$0.000005")
	got, err := Sum(cs, usage(t, "0.5 seconds, 250 kB out"))
	if err != nil {
		t.Fatal(err)
	}
	// 0.00004 + 0.00001 + 0.00002 + 0.00001 + 0.000005
	if want := dollars(t, "$0.000085"); got.Work.Cmp(want) != 0 || got.PerCall().Cmp(want) != 0 {
		t.Errorf("they add up to %v", got.Work)
	}
}

func TestACallThatIsPaidBearsThoseThatFail(t *testing.T) {
	t.Parallel()
	got, err := Sum(costs(t, "model", "$0.0009", FailedRequests, "10%", DefaultLoss, "2 %"), nil)
	if err != nil || got.PerCall().Cmp(dollars(t, "$0.001")) != 0 {
		t.Errorf("nine of ten are paid, and one costs %v, %v", got.PerCall(), err)
	}
	if got.Lost.Cmp(percent(t, "2%")) != 0 {
		t.Errorf("loss is %s", got.Lost.Percent())
	}
	// As a sum they are costs like any other.
	got, err = Sum(costs(t, FailedRequests, "$0.0001 per call", DefaultLoss, "$0.0002"), nil)
	if err != nil || got.PerCall().Cmp(dollars(t, "$0.0003")) != 0 {
		t.Errorf("as sums they come to %v, %v", got.PerCall(), err)
	}
}

func TestWhatIsNotKnownIsSaidAndNotGuessed(t *testing.T) {
	t.Parallel()
	got, err := Sum(costs(t, "model", "$0.0001", "compute", "$0.1 per second", "bandwidth", "$0.1 per MB in"), usage(t, "3 kB out"))
	var missing *UsageError
	if !errors.As(err, &missing) || missing.Measure != (Measure{money.Second, ""}) {
		t.Errorf("the error is %v", err)
	}
	if want := "compute: how many seconds a typical call takes is not known\nbandwidth: how many bytes in a typical call takes is not known"; err == nil || err.Error() != want {
		t.Errorf("it reads %v", err)
	}
	if got.Work.Cmp(dollars(t, "$0.0001")) != 0 {
		t.Errorf("the rest is %v", got.Work)
	}
}

func TestCostsThatMakeNoSense(t *testing.T) {
	t.Parallel()
	for _, c := range [][2]string{
		{"rent", "$1"}, {"model", "5%"}, {"model", "-$1"}, {"model", "$1 per"}, {"model", "1 USDC"}, {"", "5%"},
		{FailedRequests, "100%"}, {FailedRequests, "120%"}, {DefaultLoss, "x%"}, {"compute", "$0.1 per MB"},
	} {
		if got, err := ParseCost(c[0], c[1]); err == nil {
			t.Errorf("%s: %q passes for %+v", c[0], c[1], got)
		}
	}
}

func TestUsageAsPeopleWriteIt(t *testing.T) {
	t.Parallel()
	u := usage(t, "1.5 minutes, 800 tokens,2 MiB in , 0.5 kB out")
	for m, want := range map[Measure]Ratio{
		{money.Second, ""}: RatioOf(90, 1), {money.Token, ""}: RatioOf(800, 1), {money.Byte, money.In}: RatioOf(2<<20, 1), {money.Byte, money.Out}: RatioOf(500, 1),
	} {
		if u[m].Cmp(want) != 0 {
			t.Errorf("%s is %s", m, u[m].Decimal())
		}
	}
	for _, bad := range []string{"seconds", "5", "5 MB", "-5 seconds", "5 seconds, 6 seconds", "2 calls", "1 second; 2 tokens", "5 100 records", ","} {
		if u, err := ParseUsage(bad); err == nil {
			t.Errorf("%q passes for %v", bad, u)
		}
	}
}

func TestATypicalCallIsChargedInStartedBlocks(t *testing.T) {
	t.Parallel()
	u := usage(t, "137 records, 1500 tokens, 0.2 seconds, 3 bytes in, 0 bytes out")
	for price, want := range map[string]string{
		"$0.0005": "$0.0005", "free": "$0.00", "$0.01 per 100 records": "$0.02", "$0.00001 per token": "$0.015",
		"$0.001 per MiB in": "$0.001", "$0.01 per second": "$0.01", "$0.01 per minute": "$0.01", "$0.002 per MB out": "$0.002", "0.001 USDC": "$0.001",
	} {
		p, err := money.ParsePrice(price)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := Typical(p, u); err != nil || got.String() != want {
			t.Errorf("%s comes to %v, %v; want %s", price, got, err, want)
		}
	}
	p, _ := money.ParsePrice("$0.01 per image")
	var missing *UsageError
	if _, err := Typical(p, u); !errors.As(err, &missing) || missing.Measure.Kind != "image" {
		t.Errorf("an unknown unit gave %v", err)
	}
}

func TestABundleOfUnitsIsGoodForSoManyCalls(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		units uint64
		price string
		uses  string
		want  uint64
	}{
		{100_000, "$0.00001 per token", "800 tokens", 125},
		{100_000, "$0.00001 per token", "", 100_000},
		{1000, "$0.01 per 100 records", "37 records", 10},
		{1000, "$0.01 per 100 records", "", 10},
		{5, "$0.01 per 100 records", "37 records", 0},
		{100, "$0.0005", "", 100},
		{100, "free", "", 0},
		{3, "$0.01 per second", "0.5 seconds", 3},
	} {
		p, err := money.ParsePrice(c.price)
		if err != nil {
			t.Fatal(err)
		}
		got := CallsIn(c.units, p, usage(t, c.uses))
		if got != c.want {
			t.Errorf("%+v: %d calls", c, got)
		}
		if units, ok := UnitsFor(got, p, usage(t, c.uses)); !ok || units > c.units {
			t.Errorf("%+v: they take %d units, %v", c, units, ok)
		}
	}
}

package money

import (
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

var usdc = Asset{Symbol: "USDC", Decimals: 6, Dollar: true}

func TestPricesThatPeopleWrite(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		text, canonical, rate string // rate: numerator/denominator per block
	}{
		{"$0.0001", "$0.0001", "100/1 per 1"},
		{"$0.0005 per call", "$0.0005", "500/1 per 1"},
		{"  $0.0005\tper  call ", "$0.0005", "500/1 per 1"},
		{"0.001 USDC", "0.001 USDC", "1000/1 per 1"},
		{"0.001 usdc per call", "0.001 usdc", "1000/1 per 1"},
		{"$0.00001 per token", "$0.00001 per token", "10/1 per 1"},
		{"$0.00001 per tokens", "$0.00001 per token", "10/1 per 1"},
		{"$0.001 per MB in", "$0.001 per MB in", "1000/1 per 1000000"},
		{"$0.001 per MiB out", "$0.001 per MiB out", "1000/1 per 1048576"},
		{"$0.05 per 10 kB out", "$0.05 per 10 kB out", "50000/1 per 10000"},
		{"$0.05 per GiB in", "$0.05 per GiB in", "50000/1 per 1073741824"},
		{"$0.01 per 4096 bytes in", "$0.01 per 4096 bytes in", "10000/1 per 4096"},
		{"$0.01 per second", "$0.01 per second", "10000/1 per 1"},
		{"$5 per hour", "$5.00 per hour", "5000000/1 per 3600"},
		{"$0.1 per 2 minutes", "$0.10 per 2 minutes", "100000/1 per 120"},
		{"$0.01 per 100 records", "$0.01 per 100 records", "10000/1 per 100"},
		{"$0.02 per image", "$0.02 per image", "20000/1 per 1"},
		{"$0.02 per 3 images", "$0.02 per 3 images", "20000/1 per 3"},
		{"$0.0000015", "$0.0000015", "15/10 per 1"},
		{"$00.500", "$0.50", "500000/1 per 1"},
		{"free", "free", "0/0 per 0"},
		{"Free", "free", "0/0 per 0"},
		{"0", "free", "0/0 per 0"},
		{"$0.00 per token", "free", "0/0 per 0"},
		{"0 USDC", "free", "0/0 per 0"},
	} {
		p, err := ParsePrice(tt.text)
		if err != nil {
			t.Errorf("%q: %v", tt.text, err)
			continue
		}
		if p.String() != tt.canonical {
			t.Errorf("%q reads as %q, want %q", tt.text, p, tt.canonical)
		}
		r, err := p.For(usdc)
		if got := r.Numerator.String() + "/" + r.Denominator.String() + " per " + Units(r.Block).String(); err != nil || got != tt.rate {
			t.Errorf("%q is %s (%v), want %s", tt.text, got, err, tt.rate)
		}
		if p.Free() != r.Free() {
			t.Errorf("%q: free as a price %v, as a rate %v", tt.text, p.Free(), r.Free())
		}
	}
}

func TestPriceErrorsPointAtTheCharacter(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		text    string
		column  int
		message string // part of the message
		hint    string // part of the hint
	}{
		{"", 1, "is empty", "$0.0005"},
		{"   ", 4, "is empty", "free"},
		{"$", 2, "no number after $", "$0.01"},
		{"$.5", 2, "no digit before the point", "0.5"},
		{"$5.", 3, "point", ""},
		{"$1.2.3", 5, "point", ""},
		{"$-1", 2, "sign", ""},
		{"-$1", 1, "does not begin with $ or a number", "$0.0005"},
		{"USDC 1", 1, "does not begin with $ or a number", ""},
		{"$1e-3", 3, `"e"`, ""},
		{"1e5 USDC", 2, `"e"`, ""},
		{"$1,000", 3, "comma", "thousands"},
		{"$0,5", 3, "comma", "point"},
		{"$0.01/call", 6, `"/"`, "per call"},
		{"€0.01", 1, "does not begin", ""},
		{"$٣", 2, `"٣"`, ""},
		{"0.5", 4, "no currency", "$0.5"},
		{"0.5 per call", 5, "no currency", "0.5 USDC"},
		{"0.5 $", 5, "names no token", ""},
		{"0.5 US/DC", 7, "names no token", ""},
		{"$0.5 USDC", 6, "where per is expected", ""},
		{"$1 per", 7, "per what", ""},
		{"$1 per 100", 11, "per what", ""},
		{"$1 per 0 calls", 8, "count", "from 1"},
		{"$1 per 1.5 calls", 8, "count", ""},
		{"$1 per 99999999999999999999 calls", 8, "count", ""},
		{"$1 per 10000000000000 GB in", 23, "more units than can be counted", ""},
		{"$1 per MB", 10, "which way", "MB in"},
		{"$1 per 5 MB off", 13, "which way", "MB out"},
		{"$1 per mb in", 8, "misread", "1000000 bytes"},
		{"$1 per Mib in", 8, "misread", "1048576 bytes"},
		{"$1 per call in", 13, "more after the unit", "MB"},
		{"$1 per MB in out", 14, "more after the price", ""},
		{"$1 per Call", 8, "names no unit", ""},
		{"$1 per image2", 13, "names no unit", ""},
		{"$1 per \xff", 8, "not UTF-8", ""},
		{"$1 per « x", 8, "names no unit", ""},
		{"$0." + strings.Repeat("0", 40) + "1", 2, "more than 36 decimals", ""},
		{"$" + strings.Repeat("9", 80), 2, "too large", ""},
		{"$" + strings.Repeat("9", 200), 121, "too long", ""},
		{strings.Repeat("茕", 121), 121, "too long", ""},
		{strings.Repeat("茕", 120), 1, "does not begin", ""},
		{"free lunch", 1, "does not begin", ""},
	} {
		_, err := ParsePrice(tt.text)
		var e *PriceError
		if !errors.As(err, &e) {
			t.Errorf("%q: error is %v, want a *PriceError", tt.text, err)
			continue
		}
		if e.Column != tt.column || !strings.Contains(e.Error(), tt.message) || !strings.Contains(e.Hint, tt.hint) || e.Text != tt.text {
			t.Errorf("%q: column %d, %q, hint %q; want column %d, %q, %q", tt.text, e.Column, e, e.Hint, tt.column, tt.message, tt.hint)
		}
	}
}

func TestPricesThatAnAssetCannotPay(t *testing.T) {
	t.Parallel()
	coin := Asset{Symbol: "COIN", Decimals: 0}
	for _, tt := range []struct {
		text          string
		asset         Asset
		message, hint string
	}{
		{"$0.0000001", usdc, `"$0.0000001" is below one unit of USDC ($0.000001)`, "sell ten at once: $0.000001 per 10 calls"},
		{"$0.0000003 per 10 records", usdc, `"$0.0000003 per 10 records" is below one unit of USDC ($0.000001)`, "sell ten at once: $0.000003 per 100 records"},
		{"$0.00000005 per MiB out", usdc, `"$0.00000005 per MiB out" is below one unit of USDC ($0.000001)`, "sell a hundred at once: $0.000005 per 100 MiB out"},
		{"0.1 COIN", coin, `"0.10 COIN" is below one unit of COIN (1 COIN)`, "sell ten at once: 1.00 COIN per 10 calls"},
		{"$0.0000000000000000000000000001 per GB in", usdc, `"$0.0000000000000000000000000001 per GB in" is below one unit of USDC ($0.000001)`, ""},
		{"$1", coin, `"$1.00" is not a price in COIN`, "a price in $ is for tokens that stand for a dollar; others name their token, such as 0.001 COIN"},
		{"1 USDT", usdc, `"1.00 USDT" is not a price in USDC`, "a price in $ is for tokens that stand for a dollar; others name their token, such as 0.001 USDC"},
		{"$" + strings.Repeat("9", 40), usdc, `"$` + strings.Repeat("9", 40) + `.00" is more than can be counted in USDC`, ""},
	} {
		p, err := ParsePrice(tt.text)
		if err != nil {
			t.Fatalf("%q: %v", tt.text, err)
		}
		_, err = p.For(tt.asset)
		var e *PriceError
		if !errors.As(err, &e) || e.Error() != tt.message || e.Hint != tt.hint {
			t.Errorf("%q in %s: %v, hint %q; want %s, %q", tt.text, tt.asset.Symbol, err, e.Hint, tt.message, tt.hint)
		}
	}
	if _, err := (Price{Money: Money{Value: Decimal{Units(1), 0}, Symbol: "$"}}).For(usdc); err == nil {
		t.Error("a price per nothing became a rate")
	}
	if _, err := (Price{Money: Money{Value: Decimal{Units(1), 0}, Symbol: "COIN"}, Per: 1, Unit: Unit{Kind: Call, Size: 1}}).For(Asset{Symbol: "COIN", Decimals: 60}); err == nil {
		t.Error("an asset of 60 decimals was accepted")
	}
}

func TestChargesRoundUpAndStopAtTheLimit(t *testing.T) {
	t.Parallel()
	signed := Units(20000) // $0.02
	for _, tt := range []struct {
		name, price    string
		measured       uint64
		minimum, limit Amount
		want           Amount
	}{
		{"one call", "$0.0005", 1, Amount{}, signed, Units(500)},
		{"99 of 100 records cost one hundred", "$0.01 per 100 records", 99, Amount{}, signed, Units(10000)},
		{"37 records cost one hundred", "$0.01 per 100 records", 37, Amount{}, signed, Units(10000)},
		{"100 records cost one hundred", "$0.01 per 100 records", 100, Amount{}, signed, Units(10000)},
		{"101 records cost two hundred", "$0.01 per 100 records", 101, Amount{}, signed, Units(20000)},
		{"a third block would pass what was signed", "$0.01 per 100 records", 201, Amount{}, signed, signed},
		{"one byte costs a megabyte", "$0.001 per MB out", 1, Amount{}, signed, Units(1000)},
		{"a mebibyte is more than a megabyte", "$0.001 per MB out", 1 << 20, Amount{}, signed, Units(2000)},
		{"nothing measured costs one smallest unit", "$0.00001 per token", 0, Amount{}, signed, Units(1)},
		{"nothing measured costs the minimum", "$0.00001 per token", 0, Units(200), signed, Units(200)},
		{"the minimum is a floor, not an addition", "$0.00001 per token", 21, Units(200), signed, Units(210)},
		{"a minimum above what was signed", "$0.00001 per token", 1, Units(30000), signed, signed},
		{"half a smallest unit is charged as one", "$0.0000015", 1, Amount{}, signed, Units(2)},
		{"two of one and a half are three", "$0.0000015", 2, Amount{}, signed, Units(3)},
		{"a limit of zero charges nothing", "$0.0005", 7, Units(200), Amount{}, Amount{}},
		{"free stays free", "free", 1 << 40, Amount{}, signed, Amount{}},
		{"free with a minimum costs the minimum", "free", 5, Units(3), signed, Units(3)},
		{"no limit", "$0.0005", 1000, Amount{}, MaxAmount(), Units(500000)},
	} {
		p, err := ParsePrice(tt.price)
		if err != nil {
			t.Fatal(err)
		}
		r, err := p.For(usdc)
		if err != nil {
			t.Fatal(err)
		}
		if got := r.Charge(tt.measured, tt.minimum, tt.limit); got != tt.want {
			t.Errorf("%s: %d of %s is charged %s, want %s", tt.name, tt.measured, p, got, tt.want)
		}
	}
}

func TestTheLargestChargeDoesNotWrap(t *testing.T) {
	t.Parallel()
	p, err := ParsePrice("$300000000000000000000000000000000") // just below 2^128 smallest units
	if err != nil {
		t.Fatal(err)
	}
	r, err := p.For(usdc)
	if err != nil {
		t.Fatal(err)
	}
	want, _ := r.Numerator.Mul(Units(1<<64 - 1))
	if got := r.Charge(1<<64-1, Amount{}, MaxAmount()); got != want {
		t.Errorf("charged %s, want %s", got, want)
	}
	tooLarge := Rate{Numerator: MaxAmount(), Denominator: Units(1), Block: 1}
	if got := tooLarge.Charge(2, Amount{}, MaxAmount()); got != MaxAmount() {
		t.Errorf("a rate made by hand wrapped to %s", got)
	}
	if got := (Rate{Numerator: Units(3)}).Charge(2, Amount{}, MaxAmount()); got != Units(6) {
		t.Errorf("unset denominator and block count as one: charged %s", got)
	}
}

// drawPrice makes any price that has a rate in usdc.
func drawPrice(t *rapid.T) (Price, Rate) {
	unit := rapid.SampledFrom([]Unit{
		{Call, 1, ""}, {Token, 1, ""}, {Record, 1, ""}, {Second, 1, ""}, {Second, 60, ""}, {Byte, 1, In}, {Byte, 1e6, Out}, {Byte, 1 << 20, In}, {"image", 1, ""},
	}).Draw(t, "unit")
	p := Price{
		Money: Money{newDecimal(Units(rapid.Uint64Min(1).Draw(t, "coefficient")), rapid.Uint8Max(20).Draw(t, "scale")), "$"},
		Per:   rapid.Uint64Range(1, 1e6).Draw(t, "per"), Unit: unit,
	}
	r, err := p.For(usdc)
	if err != nil {
		t.Skip("below one unit")
	}
	return p, r
}

func TestChargeKeepsItsPromises(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p, r := drawPrice(t)
		measured := rapid.Uint64().Draw(t, "measured")
		more := rapid.Uint64Range(measured, 1<<64-1).Draw(t, "more")
		minimum, limit := Units(rapid.Uint64().Draw(t, "minimum")), Units(rapid.Uint64Min(1).Draw(t, "limit"))
		got := r.Charge(measured, minimum, limit)
		if limit.Less(got) {
			t.Fatalf("%s: charged %s past the limit %s", p, got, limit)
		}
		if got.IsZero() {
			t.Fatalf("%s: nothing charged for %d", p, measured)
		}
		if got.Less(Min(minimum, limit)) {
			t.Fatalf("%s: charged %s, minimum %s", p, got, minimum)
		}
		if r.Charge(more, minimum, limit).Less(got) {
			t.Fatalf("%s: %d costs less than %d", p, more, measured)
		}
		if raised, ok := minimum.Add(Units(1)); ok && r.Charge(measured, raised, limit).Less(got) {
			t.Fatalf("%s: a higher minimum lowers the charge", p)
		}
		// Started blocks: what begins a block costs what ends it, and one more unit begins the next.
		if measured > 0 {
			blocks := (measured-1)/r.Block + 1
			free := MaxAmount()
			exact, ok := r.Numerator.Mul(Units(blocks))
			if !ok {
				t.Fatalf("%s: a block's price passes its bound", p)
			}
			charge := r.Charge(measured, Amount{}, free)
			times, ok := charge.Mul(r.Denominator)
			over, ok2 := times.Sub(exact)
			if !ok || !ok2 || !over.Less(r.Denominator) {
				t.Fatalf("%s: %d units in %d blocks charged %s: not the exact price rounded up once", p, measured, blocks, charge)
			}
		}
	})
}

func TestCanonicalPricesParseBack(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p, _ := drawPrice(t)
		again, err := ParsePrice(p.String())
		if err != nil || again != p {
			t.Fatalf("%#v writes %q, which reads as %#v (%v)", p, p, again, err)
		}
	})
}

// What a hint proposes must be a price that can be, at the same rate.
func TestTheProposedBundleCanBeSold(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p := Price{
			Money: Money{newDecimal(Units(rapid.Uint64Range(1, 1e6).Draw(t, "coefficient")), rapid.Uint8Range(7, 14).Draw(t, "scale")), "$"},
			Per:   rapid.Uint64Range(1, 1000).Draw(t, "per"), Unit: Unit{Kind: Record, Size: 1},
		}
		_, err := p.For(usdc)
		var e *PriceError
		if !errors.As(err, &e) {
			t.Skip("can be sold as it is")
		}
		_, text, found := strings.Cut(e.Hint, "at once: ")
		if !found {
			t.Fatalf("%s: no proposal in %q", p, e.Hint)
		}
		many, err := ParsePrice(text)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := many.For(usdc); err != nil {
			t.Fatalf("%s: the proposal %q cannot be sold: %v", p, text, err)
		}
		times := many.Per / p.Per
		scaled, _ := p.Value.coefficient.Mul(Units(times))
		if many.Per%p.Per != 0 || newDecimal(scaled, p.Value.scale) != many.Value {
			t.Fatalf("%s: %q is another rate", p, text)
		}
	})
}

func TestMoneyOfPeople(t *testing.T) {
	t.Parallel()
	eth := Asset{Symbol: "ETH", Decimals: 18}
	for _, tt := range []struct {
		text  string
		asset Asset
		want  string // smallest units, or the error
	}{
		{"$0.01", usdc, "10000"},
		{"$12.50", usdc, "12500000"},
		{"12.5 USDC", usdc, "12500000"},
		{"12.5 usdc", usdc, "12500000"},
		{"$0", usdc, "0"},
		{"0.000000000000000001 ETH", eth, "1"},
		{"115792089237316195423570985008687907853269984665640564039457.584007913129639935 ETH", eth, MaxAmount().String()},
		{"115792089237316195423570985008687907853269984665640564039457.584007913129639936 ETH", eth, "too large"},
		{"1157920892373161954235709850086879078532699846656405640394571 ETH", eth, ErrNotRepresentable.Error()},
		{"$0.0000001", usdc, ErrNotRepresentable.Error()},
		{"$1", eth, ErrOtherAsset.Error()},
		{"1 ETH", usdc, ErrOtherAsset.Error()},
		{"$1 per call", usdc, "has more after the sum"},
		{"free", usdc, "does not begin with $ or a number"},
		{"10", usdc, "has no currency"},
	} {
		var got string
		m, err := ParseMoney(tt.text)
		if err == nil {
			var a Amount
			a, err = m.In(tt.asset)
			got = a.String()
		}
		if err != nil {
			got = err.Error()
		}
		if got != tt.want && (err == nil || !strings.Contains(got, tt.want)) {
			t.Errorf("%q in %s: %s, want %s", tt.text, tt.asset.Symbol, got, tt.want)
		}
	}
	if _, err := (Money{Symbol: "$"}).Atomic(40); err == nil {
		t.Error("40 decimals were counted")
	}
}

func TestFormatShowsEveryDigit(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		amount   Amount
		decimals uint8
		symbol   string
		want     string
	}{
		{Units(500), 6, "$", "$0.0005"},
		{Units(10000), 6, "$", "$0.01"},
		{Units(500000), 6, "$", "$0.50"},
		{Units(12500000), 6, "USDC", "12.50 USDC"},
		{Units(0), 6, "$", "$0.00"},
		{Units(1), 6, "USDC", "0.000001 USDC"},
		{Units(11860000), 6, "$", "$11.86"},
		{Units(10000000000), 6, "$", "$10000.00"},
		{Units(7), 0, "COIN", "7 COIN"},
		{Units(70), 1, "COIN", "7.0 COIN"},
		{Units(7), 0, "$", "$7.00"},
		{Units(1), 18, "ETH", "0.000000000000000001 ETH"},
		{MaxAmount(), 0, "COIN", MaxAmount().String() + " COIN"},
	} {
		if got := Format(tt.amount, tt.decimals, tt.symbol); got != tt.want {
			t.Errorf("%s of %d decimals reads %s, want %s", tt.amount, tt.decimals, got, tt.want)
		}
	}
	if got := (Money{}).String(); got != "0.00" {
		t.Errorf("no money reads %q", got)
	}
	if got := usdc.Format(Units(12500000)); got != "12.50 USDC" {
		t.Errorf("asset formats %s", got)
	}
}

func TestFormattedMoneyParsesBack(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		b := rapid.SliceOfN(rapid.Byte(), 0, 32).Draw(t, "amount")
		a, _ := AmountFromBytes(b)
		asset := Asset{Symbol: rapid.SampledFrom([]string{"USDC", "USD₮0", "mUSD", "USDC.e"}).Draw(t, "symbol"), Decimals: rapid.Uint8Max(scaleMax).Draw(t, "decimals"), Dollar: true}
		for _, text := range []string{asset.Format(a), Format(a, asset.Decimals, "$")} {
			m, err := ParseMoney(text)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := m.In(asset); err != nil || got != a {
				t.Fatalf("%s of %d decimals writes %q, which reads as %s (%v)", a, asset.Decimals, text, got, err)
			}
		}
	})
}

func TestPricesAsText(t *testing.T) {
	t.Parallel()
	var p Price
	if err := p.UnmarshalText([]byte("$0.01 per 100 records")); err != nil {
		t.Fatal(err)
	}
	if b, err := p.MarshalText(); err != nil || string(b) != "$0.01 per 100 records" {
		t.Errorf("writes %q (%v)", b, err)
	}
	var m Money
	if err := m.UnmarshalText([]byte("$0.5")); err != nil {
		t.Fatal(err)
	}
	if b, err := m.MarshalText(); err != nil || string(b) != "$0.50" {
		t.Errorf("writes %q (%v)", b, err)
	}
	if p.UnmarshalText([]byte("$")) == nil || m.UnmarshalText([]byte("$")) == nil {
		t.Error("no error for text that is no price")
	}
}

func FuzzParsePrice(f *testing.F) {
	for _, s := range []string{"free", "$0.0005", "0.001 USDC per 100 records", "$0.001 per MiB out", "$1e3", "$0.0000001", "$1 per image", "\xff$", "1 U per MB"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		p, err := ParsePrice(text)
		if err != nil {
			checkColumn(t, text, err)
			return
		}
		again, err := ParsePrice(p.String())
		if err != nil || again != p {
			t.Fatalf("%q reads as %q, which reads as %q (%v)", text, p, again, err)
		}
		a := Asset{Symbol: p.Symbol, Decimals: 6, Dollar: true}
		if r, err := p.For(a); err == nil {
			if c := r.Charge(1, Amount{}, MaxAmount()); c.IsZero() != p.Free() {
				t.Fatalf("%q charges %s for one", text, c)
			}
		}
	})
}

func FuzzParseMoney(f *testing.F) {
	for _, s := range []string{"$0.01", "2.5 USDC", "$", "1", "$0.1 x", "00.10 USD₮0"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		m, err := ParseMoney(text)
		if err != nil {
			checkColumn(t, text, err)
			return
		}
		if again, err := ParseMoney(m.String()); err != nil || again != m {
			t.Fatalf("%q reads as %q, which reads as %q (%v)", text, m, again, err)
		}
	})
}

// A column lies in the text or right behind it, and there is something to read.
func checkColumn(t *testing.T, text string, err error) {
	t.Helper()
	var e *PriceError
	if !errors.As(err, &e) || e.Column < 1 || e.Column > len([]rune(text))+1 || e.Problem == "" {
		t.Fatalf("%q: %#v", text, err)
	}
}

func FuzzParseAmount(f *testing.F) {
	for _, s := range []string{"0", "1", "0x", "0x0", "0xff", "115792089237316195423570985008687907853269984665640564039457584007913129639936", "-1", "1e3"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		a, err := ParseAmount(text)
		if err != nil {
			if !errors.Is(err, ErrAmount) {
				t.Fatalf("%q: %v", text, err)
			}
			return
		}
		for _, again := range []string{a.String(), a.Hex()} {
			if b, err := ParseAmount(again); err != nil || a != b {
				t.Fatalf("%q reads as %s, then %s (%v)", text, a, b, err)
			}
		}
	})
}

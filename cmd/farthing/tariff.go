package main

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"
	"strconv"
	"strings"
	"time"

	"github.com/farthing402/farthing/evm/chain"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/network"
	"github.com/farthing402/farthing/signals"
)

// tariff is what a network charges, and who says so.
type tariff struct {
	On         network.Chain
	Fees       signals.Fees
	GasSource  string // now, given, or "as of 2026-02"
	CoinSource string // given, or "as of 2026-02"
	DataSource string // the rollup's contract that was asked, "none", or "not known"
	Range      *chain.GasRange
	RangeNote  string // why there is no range, if a node was asked
}

const (
	// rangeTime is how far back the range of gas prices looks, and rangeSamples at how many blocks: one every three hours.
	rangeTime    = 7 * 24 * time.Hour
	rangeSamples = 57

	dataNone    = "none"
	dataUnknown = "not known"
)

// tariff finds out what gas costs on a network: what was given, else what a node says, if there is one, else a dated
// figure. No source for a part of it is an error, never 0.
func (r *run) tariff(on network.Chain, node *chain.Client, gas, coin string) (t tariff, err error) {
	t.On, t.DataSource = on, dataUnknown
	past, dated := signals.Dated(on)
	switch {
	case gas != "":
		if t.Fees.GasPrice, err = parseGwei(gas); err != nil {
			return t, err
		}
		t.GasSource = "given"
	case node != nil:
		now, err := node.GasPrice(r.ctx)
		if err != nil {
			return t, fail("chain_unreachable", "gas price of %s: %v", on, err).hint("check --rpc-url, or give --gas-price")
		}
		t.Fees.GasPrice, t.GasSource = money.Units(now.Wei()), "now"
		r.lately(&t, node, now.TipWei)
	case dated:
		t.Fees.GasPrice, t.GasSource = past.Fees.GasPrice, "as of "+past.AsOf
	default:
		return t, fail("fee_unknown", "what gas costs on %s is not known", on).hint("--rpc-url URL of a node, or --gas-price 0.01")
	}
	switch {
	case coin != "":
		if t.Fees.Coin, err = signals.ParseDollars(coin); err != nil {
			return t, err
		}
		t.CoinSource = "given"
	default:
		price, ok := signals.DatedCoin(on.Native)
		if !ok {
			return t, fail("fee_unknown", "what the coin that pays gas on %s is worth is not known", on).hint("--native-price '$2' for one %s", coinName(on))
		}
		t.Fees.Coin, t.CoinSource = price.Dollars, "as of "+price.AsOf
	}
	switch {
	case node != nil:
		if t.Fees.Data, t.DataSource, err = r.dataFee(node); err != nil {
			return t, fail("fee_unknown", "price of data on %s: %v", on, err).hint("leave out --rpc-url and give --gas-price, or ask another node")
		}
	case dated && !past.DataUnknown:
		t.DataSource = dataNone
	}
	return t, nil
}

// lately adds the range of the last days, where the node can tell.
func (r *run) lately(t *tariff, node *chain.Client, tip uint64) {
	found, err := node.GasRange(r.ctx, rangeTime, rangeSamples)
	if err != nil {
		t.RangeNote = "the node does not tell what it cost before"
		if !errors.Is(err, chain.ErrNotFound) {
			r.log.Debug("range of gas prices", "error", err)
		}
		return
	}
	found.LowWei, found.HighWei = plus(found.LowWei, tip), plus(found.HighWei, tip) // blocks name base fees only
	t.Range = &found
}

func plus(a, b uint64) uint64 { return chain.GasPrice{BaseWei: a, TipWei: b}.Wei() }

// dataFee asks for two transactions of the kinds that are sent: one payment, and twenty at once.
func (r *run) dataFee(node *chain.Client) (d signals.DataFee, source string, err error) {
	one, many := sampleTransaction(1), sampleTransaction(20)
	small, err := node.DataFee(r.ctx, one)
	if err != nil || small.By == "" {
		return d, dataNone, err
	}
	large, err := node.DataFee(r.ctx, many)
	if err != nil {
		return d, "", err
	}
	const signature = 68
	return signals.DataFee{
		Small: uint64(len(one) + signature), SmallWei: small.Wei, Large: uint64(len(many) + signature), LargeWei: large.Wei,
	}, small.By, nil
}

// sampleTransaction has the bytes of an unsigned transaction that settles so many authorizations, as far as a rollup's
// estimate looks at them: its length, and where it has zeros and where noise. The noise is always the same.
func sampleTransaction(payments int) []byte {
	var counter [8]byte
	noise := func(n int) []byte {
		binary.BigEndian.PutUint64(counter[:], binary.BigEndian.Uint64(counter[:])+1)
		sum := sha256.Sum256(counter[:])
		return sum[:n]
	}
	word := func(b []byte) []byte { return append(make([]byte, 32-len(b)), b...) }
	tx := append([]byte{0x02}, noise(32)...) // chain, nonce, fees, limits
	tx = append(tx, noise(20)...)            // to
	tx = append(tx, noise(4)...)             // selector
	for range payments {
		if payments > 1 { // target, allowed to fail, where its bytes begin, how many, and their selector
			tx = append(tx, word(noise(20))...)
			tx = append(tx, word([]byte{1})...)
			tx = append(tx, word([]byte{0x60})...)
			tx = append(tx, word([]byte{0x01, 0x24})...)
			tx = append(tx, word(noise(4))...)
		}
		for _, bytes := range []int{20, 20, 3, 4, 4, 32, 1, 32, 32} { // from, to, value, after, before, nonce, v, r, s
			tx = append(tx, word(noise(bytes))...)
		}
	}
	return tx
}

func coinName(on network.Chain) string {
	if on.Native == "" {
		return "coin"
	}
	return on.Native
}

// parseGwei reads 0.005, 0.005 gwei: at most nine digits after the point, down to one wei.
func parseGwei(text string) (money.Amount, error) {
	digits := strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(text), "gwei"))
	m, err := money.ParseMoney("$" + digits)
	if err == nil {
		var wei money.Amount
		if wei, err = m.Atomic(9); err == nil && wei.BitLen() <= 64 {
			return wei, nil
		}
	}
	return money.Amount{}, misuse("gas price %q: want gwei, such as 0.005", text)
}

// gwei writes a price of gas for people: three digits, rounded up.
func gwei(wei money.Amount) string {
	n, ok := new(big.Int).SetString(wei.String(), 10)
	if !ok {
		return wei.String() + " wei"
	}
	unit := big.NewInt(1)
	for new(big.Int).Quo(n, unit).Cmp(big.NewInt(1000)) >= 0 {
		unit.Mul(unit, big.NewInt(10))
	}
	n.Add(n, unit).Sub(n, big.NewInt(1)).Quo(n, unit).Mul(n, unit)
	up, err := money.ParseAmount(n.String())
	if err != nil {
		up = wei
	}
	text, _ := strings.CutSuffix(money.Format(up, 9, "gwei"), " gwei")
	return strings.TrimSuffix(text, ".00")
}

// String is the tariff in a line.
func (t tariff) String() string {
	line := "network " + t.On.Name + ", " + gwei(t.Fees.GasPrice) + " gwei " + t.GasSource
	switch {
	case t.Range != nil:
		line += fmt.Sprintf(" (%s–%s in %s)", gwei(money.Units(t.Range.LowWei)), gwei(money.Units(t.Range.HighWei)), spanned(t.Range.Span()))
	case t.RangeNote != "":
		line += " (" + t.RangeNote + ")"
	}
	line += ", " + coinName(t.On) + " " + commas(t.Fees.Coin) + " " + t.CoinSource
	switch t.DataSource {
	case dataNone:
	case dataUnknown:
		line += ", without what a rollup adds for data"
	default:
		line += ", data priced by " + t.DataSource
	}
	return line
}

// spanned is a time in the unit that people would use.
func spanned(d time.Duration) string {
	for _, u := range []struct {
		unit time.Duration
		name string
	}{{24 * time.Hour, "days"}, {time.Hour, "h"}, {time.Minute, "min"}} {
		if n := (d + u.unit/2) / u.unit; n >= 2 {
			return fmt.Sprintf("%d %s", n, u.name)
		}
	}
	return fmt.Sprintf("%d s", d/time.Second)
}

// commas writes whole dollars with thousands marked, and leaves others alone.
func commas(d signals.Dollars) string {
	text, is := strings.CutSuffix(d.String(), ".00")
	if !is {
		return d.String()
	}
	return "$" + marked(strings.TrimPrefix(text, "$"))
}

// thousands writes a number with thousands marked.
func thousands(n uint64) string { return marked(strconv.FormatUint(n, 10)) }

func marked(digits string) string {
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}

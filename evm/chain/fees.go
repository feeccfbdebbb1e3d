package chain

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/ethereum/go-ethereum/common/hexutil"
	"github.com/ethereum/go-ethereum/rpc"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/money"
)

// GasPrice is what a unit of gas costs, in wei: what the newest block asked of everyone, and the tip that the node
// proposes on top. A chain without base fees has its whole price in the tip.
type GasPrice struct{ BaseWei, TipWei uint64 }

// Wei is the whole price.
func (p GasPrice) Wei() uint64 {
	if p.BaseWei > math.MaxUint64-p.TipWei {
		return math.MaxUint64
	}
	return p.BaseWei + p.TipWei
}

// GasPrice asks the node what gas costs now.
func (c *Client) GasPrice(ctx context.Context) (GasPrice, error) {
	head, err := c.header(ctx, "latest")
	if err != nil {
		return GasPrice{}, err
	}
	if head.BaseFee == nil {
		var price hexutil.Big
		if err := c.ask(ctx, &price, "eth_gasPrice"); err != nil {
			return GasPrice{}, err
		}
		return GasPrice{TipWei: weiOf(&price)}, nil
	}
	return GasPrice{BaseWei: weiOf(head.BaseFee), TipWei: c.suggestedTip(ctx)}, nil
}

// GasRange is between which base fees blocks lay, as far as samples show: a spike between two of them is not in it.
type GasRange struct {
	LowWei, HighWei uint64
	From, Until     uint64 // times of the oldest and the newest sample, Unix seconds
	Samples         int
}

// Span is the time between the oldest and the newest sample.
func (r GasRange) Span() time.Duration {
	return time.Duration(min(r.Until-r.From, math.MaxInt64/uint64(time.Second))) * time.Second
}

const (
	// samplesPerRequest keeps a batch below what public nodes take.
	samplesPerRequest = 20

	// paceBlocks is over how many blocks the time between two is measured.
	paceBlocks = 1000
)

// GasRange looks at the base fees of so many blocks, spread evenly over a time before the newest one. A node that keeps
// only a part of its past, and a chain that is younger, show a shorter range. With no more than one block that has a base
// fee, the range is not known and the error is [ErrNotFound].
func (c *Client) GasRange(ctx context.Context, over time.Duration, samples int) (GasRange, error) {
	head, err := c.header(ctx, "latest")
	if err != nil {
		return GasRange{}, err
	}
	past, err := c.header(ctx, hexutil.EncodeUint64(uint64(head.Number)-min(uint64(head.Number), paceBlocks)))
	if err != nil {
		return GasRange{}, err
	}
	if past.Time > head.Time || past.Number > head.Number {
		return GasRange{}, fmt.Errorf("block %d: %w: it is newer than block %d", uint64(past.Number), ErrInconsistent, uint64(head.Number))
	}
	blocks := uint64(head.Number)
	if took := uint64(head.Time - past.Time); took > 0 {
		pace := uint64(head.Number-past.Number) * uint64(over/time.Second) / took // cannot wrap: paceBlocks × seconds
		blocks = min(blocks, pace)
	}
	found := GasRange{LowWei: math.MaxUint64, From: math.MaxUint64}
	numbers := spread(uint64(head.Number)-blocks, uint64(head.Number), samples)
	for len(numbers) > 0 {
		part := numbers[:min(len(numbers), samplesPerRequest)]
		numbers = numbers[len(part):]
		if err := c.sample(ctx, part, &found); err != nil {
			return GasRange{}, err
		}
	}
	if found.Samples < 2 {
		return GasRange{}, fmt.Errorf("base fees of the last %v: %w", over, ErrNotFound)
	}
	return found, nil
}

// spread returns at most so many numbers from first to last, both included, each once.
func spread(first, last uint64, samples int) []uint64 {
	steps := min(uint64(max(samples, 2)-1), last-first)
	numbers := make([]uint64, 0, steps+1)
	for i := range steps {
		numbers = append(numbers, first+(last-first)/steps*i+(last-first)%steps*i/steps)
	}
	return append(numbers, last)
}

// sample adds blocks to a range. One that the node does not have is left out.
func (c *Client) sample(ctx context.Context, numbers []uint64, found *GasRange) error {
	answers := make([]*header, len(numbers))
	batch := make([]rpc.BatchElem, len(numbers))
	for i, n := range numbers {
		batch[i] = rpc.BatchElem{Method: "eth_getBlockByNumber", Args: []any{hexutil.EncodeUint64(n), false}, Result: &answers[i]}
	}
	ctx, cancel := context.WithTimeout(ctx, DefaultTimeout)
	defer cancel()
	if err := c.rpc.BatchCallContext(ctx, batch); err != nil {
		return nodeError("eth_getBlockByNumber", err)
	}
	for i, h := range answers {
		if batch[i].Error != nil || h == nil || h.BaseFee == nil {
			continue
		}
		if uint64(h.Number) != numbers[i] {
			return fmt.Errorf("block %d: %w: it sent %d", numbers[i], ErrInconsistent, uint64(h.Number))
		}
		fee := weiOf(h.BaseFee)
		found.LowWei, found.HighWei = min(found.LowWei, fee), max(found.HighWei, fee)
		found.From, found.Until = min(found.From, uint64(h.Time)), max(found.Until, uint64(h.Time))
		found.Samples++
	}
	return nil
}

// Where rollups keep what they ask for data.
var (
	// https://specs.optimism.io/protocol/predeploys.html#gaspriceoracle
	opGasPriceOracle = evm.MustAddress("0x420000000000000000000000000000000000000F")
	// https://docs.arbitrum.io/build-decentralized-apps/precompiles/reference#arbgasinfo
	arbGasInfo = evm.MustAddress("0x000000000000000000000000000000000000006C")
)

// signatureBytes is what a signature adds to a transaction that has none.
const signatureBytes = 68

// DataFee is what a rollup asks, beside gas, for publishing a transaction.
type DataFee struct {
	Wei money.Amount
	By  string // who said so: GasPriceOracle, ArbGasInfo; empty where no rollup's contract has code, and nothing is asked
}

// DataFee asks what publishing an unsigned transaction would cost now, if the chain is a rollup: of the OP stack by its
// own estimate of what the bytes come to compressed, on Arbitrum by their number, uncompressed, which is the most that it
// charges. The operator fee that an OP chain may add is not in it: the chains that ship ask none.
func (c *Client) DataFee(ctx context.Context, transaction []byte) (DataFee, error) {
	is, err := c.hasCode(ctx, opGasPriceOracle)
	if err != nil {
		return DataFee{}, err
	}
	if is {
		// getL1Fee(bytes); the oracle adds the bytes of the signature itself
		data := append([]byte{0x49, 0x94, 0x8e, 0x0e}, bytesArgument(transaction)...)
		wei, err := c.word(ctx, opGasPriceOracle, data, 0, 1)
		return DataFee{wei, "GasPriceOracle"}, err
	}
	if is, err = c.hasCode(ctx, arbGasInfo); err != nil || !is {
		return DataFee{}, err
	}
	// getPricesInWei(); its second word is for one byte, whatever the byte is
	each, err := c.word(ctx, arbGasInfo, []byte{0x41, 0xb2, 0x47, 0xa8}, 1, 6)
	if err != nil {
		return DataFee{}, err
	}
	wei, ok := each.Mul(money.Units(uint64(len(transaction) + signatureBytes)))
	if !ok {
		return DataFee{}, fmt.Errorf("price of data: %w: %s wei a byte", ErrInconsistent, each)
	}
	return DataFee{wei, "ArbGasInfo"}, nil
}

func (c *Client) hasCode(ctx context.Context, at evm.Address) (bool, error) {
	code, err := c.Code(ctx, at)
	return len(code) > 0, err
}

// word reads one of so many words that a contract returns.
func (c *Client) word(ctx context.Context, at evm.Address, data []byte, which, words int) (money.Amount, error) {
	out, err := c.Read(ctx, evm.Address{}, at, data)
	if err != nil {
		return money.Amount{}, fmt.Errorf("price of data at %s: %w", at, err)
	}
	if len(out) < 32*words {
		return money.Amount{}, fmt.Errorf("price of data at %s: %w: %d bytes for %d words", at, ErrInconsistent, len(out), words)
	}
	return money.AmountFromBytes(out[32*which : 32*which+32])
}

// bytesArgument is a single argument of type bytes: where it begins, its length, itself, and zeros to a whole word.
func bytesArgument(b []byte) []byte {
	start, length := evm.WordUint64(32), evm.WordUint64(uint64(len(b)))
	out := append(append(start[:], length[:]...), b...)
	return append(out, make([]byte, (32-len(b)%32)%32)...)
}

package desk

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"github.com/farthing402/farthing/evm"
)

var (
	transferTopic = evm.Keccak256([]byte("Transfer(address,address,uint256)"))
	usedTopic     = evm.Keccak256([]byte("AuthorizationUsed(address,bytes32)"))
)

// verdict is what a transaction's logs say about a settlement.
type verdict int

const (
	nothing verdict = iota // neither mark nor transfer
	wrong                  // carried out, but the transfer is not the one that was asked for
	moved                  // carried out, and the transfer is there
)

// judge returns what the logs of one transaction say about each of the settlements that it carried. Every transfer
// counts for one of them only. Where a token logs a nonce, what it moves for it stands behind that, and before the next
// nonce: beside a payment, its payer may use up other nonces for nothing. A token that logs no nonces at all is taken at
// its transfer, if it is the only one.
func judge(logs []evm.Log, carried []Settlement) []verdict {
	spent := make([]bool, len(logs))
	out := make([]verdict, len(carried))
	for i, s := range carried {
		nonce := func(l evm.Log) bool { return l.Address == s.Asset && len(l.Topics) > 0 && l.Topics[0] == usedTopic }
		silent := len(carried) == 1 && !slices.ContainsFunc(logs, nonce)
		from, to := 0, len(logs) // where the transfer may stand
		if s.Mark == MarkNonce && !silent {
			if from = slices.IndexFunc(logs, func(l evm.Log) bool { return used(l, s.Ask) }) + 1; from == 0 {
				continue
			}
			if next := slices.IndexFunc(logs[from:], nonce); next >= 0 {
				to = from + next
			}
		}
		at := -1
		for k := from; k < to; k++ {
			if !spent[k] && transferOf(logs[k], s.Ask) {
				at = k
				break
			}
		}
		switch {
		case at >= 0:
			spent[at], out[i] = true, moved
		case s.Mark == MarkNonce && !silent:
			out[i] = wrong
		}
	}
	return out
}

// used reports whether a log says that the authorization was carried out.
func used(l evm.Log, a Ask) bool {
	return l.Address == a.Asset && len(l.Topics) == 3 && l.Topics[0] == usedTopic &&
		l.Topics[1] == evm.Hash(a.Payer.Word()) && l.Topics[2] == a.Nonce
}

// transferOf reports whether a log is the transfer that was asked for.
func transferOf(l evm.Log, a Ask) bool {
	amount := a.Amount.Word()
	return l.Address == a.Asset && len(l.Topics) == 3 && l.Topics[0] == transferTopic &&
		l.Topics[1] == evm.Hash(a.Payer.Word()) && l.Topics[2] == evm.Hash(a.Payee.Word()) && bytes.Equal(l.Data, amount[:])
}

// candidatesMax bounds how many transfers between two parties are looked at for one that leaves no mark in the logs.
const candidatesMax = 50

// find looks for the transaction that carried a settlement out, whoever sent it, in the blocks from lookback before it was
// asked for up to the head. It returns nil if there is none. One that leaves no mark in the logs has to be the very call and
// nothing else: a payer's own contract could be called with the data of many payments, and make one.
func (d *Desk) find(ctx context.Context, s Settlement, head evm.BlockRef) (*evm.TxReceipt, verdict, error) {
	topics := []evm.Hash{usedTopic, evm.Hash(s.Payer.Word()), s.Nonce}
	switch s.Mark {
	case MarkOwn:
		return nil, nothing, nil
	case MarkData:
		topics = []evm.Hash{transferTopic, evm.Hash(s.Payer.Word()), evm.Hash(s.Payee.Word())}
	}
	first := s.Since - min(s.Since, d.c.Lookback)
	looked := 0
	for last := head.Number; ; { // newest first: what is looked for has usually just happened
		from := max(first, last-min(last, searchBlocks-1))
		logs, err := d.c.Chain.Logs(ctx, s.Asset, topics, from, last)
		if err != nil {
			return nil, nothing, err
		}
		for _, l := range slices.Backward(logs) {
			if s.Mark == MarkData {
				if !transferOf(l, s.Ask) {
					continue
				}
				if looked++; looked > candidatesMax {
					return nil, nothing, nil
				}
				input, err := d.c.Chain.Input(ctx, l.TxHash)
				if err != nil {
					return nil, nothing, err
				}
				if !bytes.Equal(input, s.Data) {
					continue
				}
			}
			receipt, err := d.c.Chain.Receipt(ctx, l.TxHash)
			if err != nil {
				return nil, nothing, err
			}
			if receipt == nil || !receipt.OK {
				continue // a reorganisation took it meanwhile
			}
			block, err := d.c.Chain.Block(ctx, receipt.BlockNumber)
			if err != nil {
				return nil, nothing, err
			}
			if block.Hash != receipt.BlockHash {
				return nil, nothing, fmt.Errorf("transaction %s is in a block %d that is not the chain's", l.TxHash, receipt.BlockNumber)
			}
			if s.Mark == MarkData && receipt.To != s.To {
				continue
			}
			return receipt, judge(receipt.Logs, []Settlement{s})[0], nil
		}
		if from <= first {
			return nil, nothing, nil
		}
		last = from - 1
	}
}

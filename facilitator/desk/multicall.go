package desk

import (
	"errors"

	"github.com/farthing402/farthing/evm"
)

// Multicall3 is at its address on nearly every chain: https://www.multicall3.com.
var Multicall3 = evm.MustAddress("0xcA11bde05977b3631167028862bE2a173976CA11")

// aggregate3 returns (bool success, bytes returnData)[].
var aggregate3 = evm.Selector("aggregate3((address,bool,bytes)[])")

// together packs calls into one of Multicall3. With mayFail each part stands or falls by itself.
func together(parts []Settlement, mayFail bool) []byte {
	var flag [32]byte
	if mayFail {
		flag[31] = 1
	}
	calls := make([]evm.Arg, len(parts))
	for i, p := range parts {
		calls[i] = evm.TupleArg(evm.WordArg(p.To.Word()), evm.WordArg(flag), evm.BytesArg(p.Data))
	}
	return evm.EncodeCall(aggregate3, evm.ListArg(calls...))
}

var errAnswer = errors.New("Multicall3 answered what it cannot")

// outcomes reads which of n parts succeeded.
func outcomes(answer []byte, n int) ([]bool, error) {
	list, length, ok := evm.ABI(answer).List(0)
	if !ok || length != n {
		return nil, errAnswer
	}
	out := make([]bool, n)
	for i := range out {
		part, ok := list.Tail(i)
		if !ok {
			return nil, errAnswer
		}
		if out[i], ok = part.Bool(0); !ok {
			return nil, errAnswer
		}
	}
	return out, nil
}

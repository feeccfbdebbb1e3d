package chain

import (
	"errors"
	"fmt"
	"strings"

	"github.com/ethereum/go-ethereum/common/hexutil"
	"github.com/ethereum/go-ethereum/rpc"

	"github.com/farthing402/farthing/evm"
)

// RevertError is the refusal of a contract.
type RevertError struct {
	Data   []byte // what the contract returned with it
	Reason string // such as "InsufficientAvailable()"; the selector for an error that we do not know
}

// Error says why the contract refused.
func (e *RevertError) Error() string { return "contract refused: " + e.Reason }

// RevertData returns what the contract returned with its refusal, which may be nothing.
func (e *RevertError) RevertData() []byte { return e.Data }

// RevertReason returns the refusal in words.
func (e *RevertError) RevertReason() string { return e.Reason }

// What a node may answer when it is given a transaction. They stay inside the package: a sender turns each into a next
// step, and reports what remains.
var (
	errKnown       = errors.New("node has the transaction already")
	errNonceSpent  = errors.New("nonce is spent")
	errUnderpriced = errors.New("fees are too low to replace what waits under the nonce, or to wait at all")
	errInvalid     = errors.New("transaction breaks a rule that no node forgives")
	errTooMuchGas  = evm.ErrTooMuchGas
)

// nodeError turns what a node answered into our errors. It is the only place that reads a node's words; where they come
// from stands beside them.
func nodeError(method string, err error) error {
	var data rpc.DataError
	if errors.As(err, &data) {
		if text, ok := data.ErrorData().(string); ok {
			if b, decodeErr := hexutil.Decode(text); decodeErr == nil {
				return fmt.Errorf("%s: %w", method, &RevertError{Data: b, Reason: revertReason(b)})
			}
		}
	}
	words := strings.ToLower(err.Error())
	for _, known := range nodeWords {
		if strings.Contains(words, known.words) {
			return fmt.Errorf("%s: %w (%s)", method, known.means, clip(err.Error()))
		}
	}
	for _, refusal := range refusalWords {
		if strings.Contains(words, refusal) {
			return fmt.Errorf("%s: %w", method, &RevertError{Reason: clip(err.Error())})
		}
	}
	var answer rpc.Error
	if errors.As(err, &answer) {
		return fmt.Errorf("%s: node answered %d: %s", method, answer.ErrorCode(), clip(err.Error()))
	}
	return fmt.Errorf("%s: %w", method, err)
}

var nodeWords = []struct {
	words string
	means error
}{
	{"already known", errKnown},                                  // geth core/txpool/errors.go ErrAlreadyKnown
	{"already imported", errKnown},                               // older OpenEthereum and Nethermind
	{"alreadyknown", errKnown},                                   // Nethermind
	{"nonce too low", errNonceSpent},                             // geth core/error.go ErrNonceTooLow
	{"oldnonce", errNonceSpent},                                  // Nethermind
	{"replacement transaction underpriced", errUnderpriced},      // geth core/txpool/errors.go ErrReplaceUnderpriced
	{"transaction underpriced", errUnderpriced},                  // geth core/txpool/errors.go ErrUnderpriced
	{"max fee per gas less than block base fee", errUnderpriced}, // geth core/error.go ErrFeeCapTooLow
	{"intrinsic gas too low", errInvalid},                        // geth core/error.go ErrIntrinsicGas
	{"insufficient gas for floor data gas cost", errInvalid},     // geth core/error.go ErrFloorDataGas
	{"transaction gas limit too high", errInvalid},               // geth core/error.go ErrGasLimitTooHigh, EIP-7825
	{"exceeds block gas limit", errInvalid},                      // geth core/txpool/errors.go ErrGasLimit
	{"max initcode size exceeded", errInvalid},                   // geth core/error.go ErrMaxInitCodeSizeExceeded
	{"oversized data", errInvalid},                               // geth core/txpool/errors.go ErrOversizedData
	{"gas required exceeds allowance", errTooMuchGas},            // geth eth/gasestimator
}

// refusalWords are what ends a contract's run without data: geth core/vm/errors.go, and what anvil makes of revm's names.
var refusalWords = []string{
	"execution reverted", "out of gas", "outofgas", "invalid opcode", "opcodenotfound", "invalidfeopcode", "invalid jump destination",
	"invalidjump", "stack underflow", "stackunderflow", "stack limit reached", "write protection", "return data out of bounds",
	"gas uint64 overflow",
}

func clip(s string) string {
	if len(s) > 200 {
		return s[:200] + "…"
	}
	return s
}

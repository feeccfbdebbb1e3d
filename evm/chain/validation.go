package chain

import (
	"context"
	"errors"
	"math/big"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/common/hexutil"
	"github.com/ethereum/go-ethereum/rpc"

	"github.com/farthing402/farthing/evm"
)

// Validation is what a validation registry says about a request. The zero value is that nobody ever answered.
type Validation struct {
	Validator  evm.Address
	AgentID    evm.Hash
	Response   uint8
	Tag        string
	LastUpdate uint64 // unix seconds
}

// Question names a request in a registry.
type Question struct {
	Registry evm.Address
	Request  evm.Hash
}

const (
	// questionsAtOnce and questionGas bound what answers can come to: with this gas a contract returns at most 0.3 MB.
	questionsAtOnce = 32
	questionGas     = 200_000
)

// Validations asks registries as they stood in the block with a hash, and returns what they say in the order of the
// questions. A registry that refuses, or says what none can say, has no answer; a node that does not answer is an error.
func (c *Client) Validations(ctx context.Context, block evm.Hash, ask []Question) ([]Validation, error) {
	said := make([]Validation, 0, len(ask))
	for len(ask) > 0 {
		some := ask[:min(len(ask), questionsAtOnce)]
		ask = ask[len(some):]
		answers := make([]hexutil.Bytes, len(some))
		batch := make([]rpc.BatchElem, len(some))
		for i, q := range some {
			batch[i] = rpc.BatchElem{Method: "eth_call", Result: &answers[i], Args: []any{
				message{To: &q.Registry, Data: pack(askedABI, "getValidationStatus", [32]byte(q.Request)), Gas: questionGas},
				map[string]any{"blockHash": block},
			}}
		}
		bounded, cancel := context.WithTimeout(ctx, DefaultTimeout)
		err := c.rpc.BatchCallContext(bounded, batch)
		cancel()
		if err != nil {
			return nil, nodeError("eth_call", err)
		}
		for i := range batch {
			var refused *RevertError
			if err := batch[i].Error; err != nil {
				if err = nodeError("eth_call", err); !errors.As(err, &refused) {
					return nil, err
				}
			}
			said = append(said, validationOf(evm.ABI(answers[i])))
		}
	}
	return said, nil
}

// validationOf reads (address validator, uint256 agentId, uint8 response, bytes32 responseHash, string tag, uint256
// lastUpdate).
func validationOf(b evm.ABI) Validation {
	validator, ok0 := b.Address(0)
	agent, ok1 := b.Word(1)
	response, ok2 := b.Uint64(2)
	tag, ok3 := b.Bytes(4)
	last, ok4 := b.Uint64(5)
	if !ok0 || !ok1 || !ok2 || !ok3 || !ok4 || response > 0xff {
		return Validation{}
	}
	return Validation{Validator: validator, AgentID: agent, Response: uint8(response), Tag: string(tag), LastUpdate: last}
}

// RequestValidation asks a validator, in a registry, to judge an agent's work.
func RequestValidation(q Question, validator evm.Address, agent evm.Hash) evm.Call {
	return evm.Call{To: q.Registry, Data: pack(askedABI, "validationRequest", common.Address(validator), new(big.Int).SetBytes(agent[:]), "", [32]byte(q.Request))}
}

// AnswerValidation is the validator's answer, 0 to 100.
func AnswerValidation(q Question, response uint8, tag string) evm.Call {
	return evm.Call{To: q.Registry, Data: pack(askedABI, "validationResponse", [32]byte(q.Request), response, "", [32]byte{}, tag)}
}

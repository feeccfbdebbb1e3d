package sim

import (
	"context"
	"fmt"

	"github.com/farthing402/farthing/clearing"
	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/guarantee"
)

// Registry is the address of the chain's validation registry. It knows no requests: a validator answers, and answers again,
// whatever it likes.
var Registry = evm.Address{0x80, 0x04}

// Validate has a validator answer a request.
func (c *Chain) Validate(request evm.Hash, a guarantee.Answer) evm.Hash {
	return c.submit(a.Validator, op{Kind: opValidate, Root: request, Answer: &a})
}

// Answers implements [clearing.Registry]. A block need not be canonical any more.
func (c *Chain) Answers(_ context.Context, at clearing.Block, asked []guarantee.Policy) ([]guarantee.Answer, error) {
	s := c.at(at.Hash)
	if s == nil {
		return nil, fmt.Errorf("no block %s was ever there", at.Hash)
	}
	list := make([]guarantee.Answer, len(asked))
	for i, p := range asked {
		if p.Registry == Registry {
			list[i] = s.answers[p.Request]
		}
	}
	return list, nil
}

package payer

import (
	"encoding/json"
	"testing"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/x402"
)

// A promise depends on the validator that the offer asks for, and on all that the offer says of it; an offer that says only
// a part, or what no validator can answer, is not paid.
func TestPromisesThatDependOnAValidator(t *testing.T) {
	t.Parallel()
	policy := guarantee.Policy{
		Registry: evm.Address{1}, ChainID: 31337, Validator: evm.Address{2}, AgentID: evm.Hash{31: 42}, MinScore: 80, JobHash: evm.Hash{9}, Tag: "hard-finality",
	}
	for name, c := range map[string]struct {
		change func(map[string]json.RawMessage)
		paid   bool
	}{
		"whole":            {func(map[string]json.RawMessage) {}, true},
		"without the job":  {func(extra map[string]json.RawMessage) { delete(extra, "jobHash") }, false},
		"a score of 0":     {func(extra map[string]json.RawMessage) { extra["minValidationScore"] = json.RawMessage(`0`) }, false},
		"on another chain": {func(extra map[string]json.RawMessage) { extra["validationChainId"] = json.RawMessage(`1`) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := (&seller{offers: func(r x402.Requirements) []x402.Requirements {
				for member, value := range policy.Extra() {
					raw, err := json.Marshal(value)
					if err != nil {
						t.Error(err)
					}
					r.Extra[member] = raw
				}
				c.change(r.Extra)
				return []x402.Requirements{r}
			}}).start(t)
			p := newPayer(t, perDay("$1"))
			_, receipt, err := get(p, s.url+"/quote")
			if !c.paid {
				if len(s.payments) != 0 || today(t, p) != "$1.00" {
					t.Errorf("%d payments, %v", len(s.payments), err)
				}
				return
			}
			if err != nil || len(s.payments) != 1 {
				t.Fatalf("%d payments, %v", len(s.payments), err)
			}
			got := s.payments[0].Signed
			if err := guarantee.Meets(got.Claims, policy, 31337); err != nil {
				t.Error(err)
			}
			digest, err := got.Verify(deployment.ClaimsSeparator(), guarantee.Rules{})
			if err != nil || receipt.State != Charged || receipt.Digest != digest {
				t.Errorf("receipt %+v, %v", receipt, err)
			}
		})
	}
}

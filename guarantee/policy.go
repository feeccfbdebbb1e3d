package guarantee

import (
	"fmt"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/money"
)

// Policy is on what claims of version 2 depend: they are payable once a validator has answered, in a registry like
// ERC-8004's, that the job was done well enough. Subject and Request follow from the rest and from the claims; [Claims.Bind]
// makes them and [Claims.CheckPolicy] checks them.
type Policy struct {
	Registry  evm.Address // the contract that keeps the answer
	ChainID   uint64      // of the registry
	Validator evm.Address // who has to answer
	AgentID   evm.Hash    // a 256-bit number on the wire: whose work is judged
	MinScore  uint8       // least answer that will do, 1 to 100
	JobHash   evm.Hash    // what was to be done
	Tag       string      // that the answer must carry; may be empty
	Subject   evm.Hash    // binds the policy to the claims
	Request   evm.Hash    // names the question in the registry
}

// TagBytesMax bounds a policy's tag, and with it what a certificate can grow to.
const TagBytesMax = 256

// Answer is what a registry says about a request. The zero value is that it was never answered.
type Answer struct {
	Validator  evm.Address
	AgentID    evm.Hash
	Response   uint8
	Tag        string
	LastUpdate uint64 // unix seconds of the chain
}

// Met reports whether an answer makes claims with the policy payable.
func (p Policy) Met(a Answer) bool {
	return a.LastUpdate != 0 && a.Validator == p.Validator && a.AgentID == p.AgentID && a.Tag == p.Tag && a.Response >= p.MinScore
}

// CanonicalRequest names the rule by which request hashes are made, as public parameters spell it.
const CanonicalRequest = "4MICA_VALIDATION_REQUEST_V2"

var (
	subjectTag = evm.Keccak256([]byte("4MICA_VALIDATION_SUBJECT_V1"))
	requestTag = evm.Keccak256([]byte(CanonicalRequest))
)

// subject returns what a policy's Subject must be for the claims.
func (c Claims) subject() evm.Hash {
	payer, payee, amount := c.Payer.Word(), c.Payee.Word(), c.Amount.Word()
	asset, timestamp := c.Asset.Word(), evm.WordUint64(c.Timestamp)
	return evm.Keccak256(subjectTag[:], c.ReqID[:], payer[:], payee[:], amount[:], asset[:], timestamp[:])
}

// request returns what a policy's Request must be, given the rest of it.
func (p Policy) request() evm.Hash {
	chain, registry, validator := evm.WordUint64(p.ChainID), p.Registry.Word(), p.Validator.Word()
	score, tag := evm.WordUint64(uint64(p.MinScore)), evm.Keccak256([]byte(p.Tag))
	return evm.Keccak256(requestTag[:], chain[:], registry[:], validator[:], p.AgentID[:], p.Subject[:], score[:], tag[:], p.JobHash[:])
}

// Bind returns the claims made to depend on a policy, whose Subject and Request it fills in.
func (c Claims) Bind(p Policy) Claims {
	p.Subject = c.subject()
	p.Request = p.request()
	c.Policy = &p
	return c
}

// CheckPolicy checks that a policy, if the claims have one, can be met and is bound to them: its score, its job, its
// chain, its subject, its request. Whether its registry is to be trusted is for the caller to know. Errors match
// [ErrPolicy].
func (c Claims) CheckPolicy(chainID uint64) error {
	p := c.Policy
	if p == nil {
		return nil
	}
	fail := func(format string, args ...any) error {
		return fmt.Errorf(format+": %w", append(args, ErrPolicy)...)
	}
	bound := c.Bind(*p).Policy
	switch {
	case p.JobHash.IsZero():
		return fail("job_hash is zero")
	case p.MinScore < 1 || p.MinScore > 100:
		return fail("min_validation_score is %d, want 1 to 100", p.MinScore)
	case len(p.Tag) > TagBytesMax:
		return fail("required_validation_tag has %d bytes, at most %d are taken", len(p.Tag), TagBytesMax)
	case p.ChainID != chainID:
		return fail("validation_chain_id is %d, want %d", p.ChainID, chainID)
	case p.Subject != bound.Subject:
		return fail("validation_subject_hash is %s, want %s", p.Subject, bound.Subject)
	case p.Request != bound.Request:
		return fail("validation_request_hash is %s, want %s", p.Request, bound.Request)
	}
	return nil
}

// Extra returns the members of a requirement's extra by which a seller asks for the policy.
func (p Policy) Extra() map[string]any {
	extra := map[string]any{
		"validationRegistryAddress": p.Registry.String(), "validationChainId": p.ChainID, "validatorAddress": p.Validator.String(),
		"validatorAgentId": number(p.AgentID).String(), "minValidationScore": p.MinScore, "jobHash": p.JobHash.String(),
	}
	if p.Tag != "" {
		extra["requiredValidationTag"] = p.Tag
	}
	return extra
}

// policyWords is how many words of a policy stand before its tag, wherever it is encoded.
const policyWords = 8

// words returns the ABI encoding of all but the tag, in the order that typed data and certificates share.
func (p Policy) words() (b [policyWords * 32]byte) {
	registry, chain, validator := p.Registry.Word(), evm.WordUint64(p.ChainID), p.Validator.Word()
	score := evm.WordUint64(uint64(p.MinScore))
	for i, w := range [policyWords][32]byte{registry, p.Request, chain, validator, p.AgentID, score, p.Subject, p.JobHash} {
		copy(b[32*i:], w[:])
	}
	return b
}

// readPolicy reads what words writes. It ignores padding: who must not, encodes again and compares.
func readPolicy(b evm.ABI, tag []byte) *Policy {
	word := func(i int) evm.Hash { w, _ := b.Word(i); return w }
	p := &Policy{Request: word(1), AgentID: word(4), Subject: word(6), JobHash: word(7), Tag: string(tag)}
	registry, validator, score := word(0), word(3), word(5)
	copy(p.Registry[:], registry[12:])
	copy(p.Validator[:], validator[12:])
	p.ChainID, _ = b.Uint64(2)
	p.MinScore = score[31]
	return p
}

// Bytes returns the policy for keeping, see [ParsePolicy].
func (p Policy) Bytes() []byte {
	words := p.words()
	return append(words[:], p.Tag...)
}

// ParsePolicy reads what [Policy.Bytes] wrote. Its error matches [ErrMalformed].
func ParsePolicy(b []byte) (*Policy, error) {
	const words = policyWords * 32
	if len(b) >= words {
		if p := readPolicy(b[:words], b[words:]); string(p.Bytes()) == string(b) {
			return p, nil
		}
	}
	return nil, fmt.Errorf("policy of %d bytes: %w", len(b), ErrMalformed)
}

// policyMember is one member of a policy, and how claims and requirements spell it.
type policyMember struct {
	claims, extra string
	read          func(*Policy, []byte) error
	show          func(Policy) fmt.Stringer
	optional      bool
}

// readPolicyMembers reads the members that parties choose, which get finds under either spelling.
func readPolicyMembers(p *Policy, get func(name string) []byte) error {
	for _, m := range policyMembers {
		raw := get(m.claims)
		if raw == nil {
			raw = get(m.extra)
		}
		if err := m.read(p, raw); err != nil {
			return fmt.Errorf("%s: %w", m.claims, err)
		}
	}
	return nil
}

// policyMembers are the members that parties choose; the two hashes follow from them.
var policyMembers = []policyMember{
	{"validation_registry_address", "validationRegistryAddress",
		func(p *Policy, raw []byte) error { return readFixed(&p.Registry, raw) },
		func(p Policy) fmt.Stringer { return p.Registry }, false},
	{"validation_chain_id", "validationChainId",
		func(p *Policy, raw []byte) error { return readUint64(&p.ChainID, raw) },
		func(p Policy) fmt.Stringer { return money.Units(p.ChainID) }, false},
	{"validator_address", "validatorAddress",
		func(p *Policy, raw []byte) error { return readFixed(&p.Validator, raw) },
		func(p Policy) fmt.Stringer { return p.Validator }, false},
	{"validator_agent_id", "validatorAgentId",
		func(p *Policy, raw []byte) error { return readWord(&p.AgentID, raw) },
		func(p Policy) fmt.Stringer { return number(p.AgentID) }, false},
	{"min_validation_score", "minValidationScore",
		func(p *Policy, raw []byte) error { return readScore(&p.MinScore, raw) },
		func(p Policy) fmt.Stringer { return money.Units(uint64(p.MinScore)) }, false},
	{"job_hash", "jobHash",
		func(p *Policy, raw []byte) error { return readFixed(&p.JobHash, raw) },
		func(p Policy) fmt.Stringer { return p.JobHash }, false},
	{"required_validation_tag", "requiredValidationTag",
		func(p *Policy, raw []byte) error { return readTag(&p.Tag, raw) },
		func(p Policy) fmt.Stringer { return text(p.Tag) }, true},
}

type text string

func (t text) String() string { return fmt.Sprintf("%q", string(t)) }

// number reads 32 bytes as the number that they are on the wire.
func number(h evm.Hash) money.Amount {
	n, err := money.AmountFromBytes(h[:])
	if err != nil {
		panic("guarantee: 32 bytes are no 256-bit number") // cannot happen
	}
	return n
}

// compare returns a *MismatchError for the first member that parties choose in which p differs from want, spelled as spell
// says.
func (p Policy) compare(want Policy, spell func(policyMember) string) error {
	for _, m := range policyMembers {
		if got, want := m.show(p), m.show(want); got != want {
			return mismatch(spell(m), got, want)
		}
	}
	return nil
}

func inClaims(m policyMember) string { return m.claims }
func inExtra(m policyMember) string  { return m.extra }

func readWord(into *evm.Hash, raw []byte) error {
	var n money.Amount
	if err := readNumber(&n, raw); err != nil {
		return err
	}
	*into = n.Word()
	return nil
}

func readScore(into *uint8, raw []byte) error {
	var n uint64
	if err := readUint64(&n, raw); err != nil {
		return err
	}
	if n > 0xff {
		return fmt.Errorf("%d is past 8 bits: %w", n, ErrMalformed)
	}
	*into = uint8(n)
	return nil
}

// readTag takes a missing tag and null for none.
func readTag(into *string, raw []byte) error {
	if raw == nil || string(raw) == "null" {
		return nil
	}
	tag, err := readText(raw)
	if err == nil && len(tag) > TagBytesMax {
		err = fmt.Errorf("%d bytes, at most %d are taken: %w", len(tag), TagBytesMax, ErrMalformed)
	}
	*into = string(tag)
	return err
}

package guarantee

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/x402"
)

var (
	policy = Policy{
		Registry:  evm.MustAddress("0x8004Cb1BF31DAf7788923b405b754f57acEB4272"),
		ChainID:   84532,
		Validator: evm.MustAddress("0x3333333333333333333333333333333333333333"),
		AgentID:   evm.WordUint64(42),
		MinScore:  80,
		JobHash:   evm.MustHash("0x" + strings.Repeat("ab", 32)),
		Tag:       "hard-finality",
	}
	claims2 = claims.Bind(policy)
	domain2 = deployment.DomainOf(2)
)

// changed returns the claims with a change to a copy of their policy, which is not bound again.
func changed(c Claims, change func(*Policy)) Claims {
	p := *c.Policy
	change(&p)
	c.Policy = &p
	return c
}

func TestVectorPolicy(t *testing.T) {
	t.Parallel()
	if p := claims2.Policy; p.Subject != vec.V2.Subject || p.Request != vec.V2.Named {
		t.Errorf("subject %s, request %s", p.Subject, p.Request)
	}
	untagged := policy
	untagged.Tag = ""
	if p := claims.Bind(untagged).Policy; p.Request != vec.V2.NoTag {
		t.Errorf("request without a tag %s", p.Request)
	}
	if policyClaimsType != vec.V2.EIP712.TypeHash {
		t.Errorf("type hash %s", policyClaimsType)
	}
	if err := claims2.CheckPolicy(84532); err != nil {
		t.Error(err)
	}
	if claims.Policy != nil || claims.Version() != 1 || claims2.Version() != 2 || ID(claims2, cycleStart) == ID(claims, cycleStart) {
		t.Error("a policy is lost, or found where there is none")
	}
}

func TestVectorPolicySigned(t *testing.T) {
	t.Parallel()
	s, err := Sign(t.Context(), payerKey(t), deployment, claims2)
	if err != nil || s.Signature != vec.V2.EIP712.Signature {
		t.Fatalf("signature %x, %v", s.Signature, err)
	}
	body, err := json.Marshal(s)
	if err != nil || string(body) != compact(t, vec.V2.Request) {
		t.Errorf("request body %s, %v", body, err)
	}
	back := signed(t, vec.V2.Request)
	if !back.Claims.Equal(claims2) {
		t.Errorf("read back %+v", back)
	}
	digest, err := back.Verify(vec.Common.ClaimsSeparator, Rules{})
	if err != nil || digest != vec.V2.EIP712.Digest {
		t.Errorf("verify: %s, %v", digest, err)
	}
	// One version's signature is worth nothing for the other.
	_, err = Signed{Claims: claims, Signature: s.Signature, Form: EIP712}.Verify(vec.Common.ClaimsSeparator, Rules{})
	wantErr(t, err, ErrSignature)
	_, err = Signed{Claims: claims2, Signature: vec.V1.EIP712.Signature, Form: EIP712}.Verify(vec.Common.ClaimsSeparator, Rules{})
	wantErr(t, err, ErrSignature)
}

// The published messages are made as 4Mica's core and client make them, and still nobody's guarantee with a policy is taken
// by a form that names no deployment.
func TestVectorPolicyPersonalForms(t *testing.T) {
	t.Parallel()
	raw, text := claims2.personal()
	if raw != vec.V2.EIP191.RawDigest || text != vec.V2.EIP191.TextDigest {
		t.Errorf("raw %s, text %s", raw, text)
	}
	for digest, sig := range map[evm.Hash]evm.Signature{raw: vec.V2.EIP191.RawSignature, text: vec.V2.EIP191.TextSignature} {
		if signer, err := evm.Recover(digest, sig); err != nil || signer != claims2.Payer {
			t.Errorf("%s is signed by %s, %v", digest, signer, err)
		}
		_, err := Signed{Claims: claims2, Signature: sig, Form: EIP191}.Verify(vec.Common.ClaimsSeparator, Rules{EIP191: true})
		wantErr(t, err, ErrForm)
	}
}

func TestVectorPolicyCertificate(t *testing.T) {
	t.Parallel()
	want := unhex(t, vec.Certificate2.Claims)
	if domain2 != vec.Certificate2.Inputs.Domain {
		t.Errorf("domain %s", domain2)
	}
	b := EncodeClaims(domain2, cycle, claims2)
	if !bytes.Equal(b, want) {
		t.Fatalf("claims %x", b)
	}
	cert, err := authority(t).Certify(b)
	if err != nil || !bytes.Equal(cert.Signature[:], unhex(t, vec.Certificate2.Signature)) {
		t.Errorf("signature %x, %v", cert.Signature, err)
	}
	domain, named, got, err := DecodeClaims(want)
	if err != nil || domain != domain2 || named != cycle || !got.Equal(claims2) {
		t.Errorf("decoded %s %s %+v, %v", domain, named, got, err)
	}
	if _, err := verifier(t, deployment).Verify(cert, claims2); err != nil {
		t.Error(err)
	}
}

// Claims have one encoding in each version: no byte of padding, no offset, no length is free, and the shorter forms that
// other readers also take are refused, because no contract would know them.
func TestDecodePolicyClaimsRefuses(t *testing.T) {
	t.Parallel()
	good := EncodeClaims(domain2, cycle, claims2)
	for n := range good {
		if _, _, _, err := DecodeClaims(good[:n]); !errors.Is(err, ErrCertificate) {
			t.Fatalf("%d bytes: %v", n, err)
		}
	}
	for i := range good {
		b := bytes.Clone(good)
		b[i] ^= 0x80
		domain, cycle, c, err := DecodeClaims(b)
		if err == nil && bytes.Equal(EncodeClaims(domain, cycle, c), good) {
			t.Errorf("byte %d says nothing", i)
		}
	}
	flat := append(bytes.Clone(good[:96]), good[128:]...) // without the offset that leads to the tuple
	flat[95] -= 32
	one := EncodeClaims(domain, cycle, claims)
	for name, b := range map[string][]byte{
		"one byte more": append(bytes.Clone(good), 0), "one word more": append(bytes.Clone(good), make([]byte, 32)...),
		"tuple laid flat": flat, "unwrapped": good[96:], "unwrapped, version 1": one[96:],
	} {
		if _, _, _, err := DecodeClaims(b); !errors.Is(err, ErrCertificate) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, tag := range []string{"", "a", strings.Repeat("t", 32), strings.Repeat("t", 33), strings.Repeat("t", TagBytesMax)} {
		c := changed(claims2, func(p *Policy) { p.Tag = tag })
		if _, _, got, err := DecodeClaims(EncodeClaims(domain2, cycle, c)); err != nil || !got.Equal(c) {
			t.Errorf("tag of %d bytes: %v", len(tag), err)
		}
	}
	long := changed(claims2, func(p *Policy) { p.Tag = strings.Repeat("t", TagBytesMax+1) })
	_, _, _, err := DecodeClaims(EncodeClaims(domain2, cycle, long))
	wantErr(t, err, ErrCertificate)
}

// policyChanges change one member each.
var policyChanges = map[string]func(*Policy){
	"validation_registry_address": func(p *Policy) { p.Registry[0] ^= 1 },
	"validation_request_hash":     func(p *Policy) { p.Request[0] ^= 1 },
	"validation_chain_id":         func(p *Policy) { p.ChainID++ },
	"validator_address":           func(p *Policy) { p.Validator[0] ^= 1 },
	"validator_agent_id":          func(p *Policy) { p.AgentID[0] ^= 1 },
	"min_validation_score":        func(p *Policy) { p.MinScore-- },
	"validation_subject_hash":     func(p *Policy) { p.Subject[0] ^= 1 },
	"job_hash":                    func(p *Policy) { p.JobHash[0] ^= 1 },
	"required_validation_tag":     func(p *Policy) { p.Tag += "!" },
}

// A verifier looks at every member of a policy, in single and in batch certificates, and takes neither version for the
// other.
func TestVerifyPolicy(t *testing.T) {
	t.Parallel()
	v, a := verifier(t, deployment), authority(t)
	single, err := a.Certify(EncodeClaims(domain2, cycle, claims2))
	if err != nil {
		t.Fatal(err)
	}
	other := numbered(7).Bind(policy)
	batch, err := a.CertifyBatch(domain2, cycle, [][]byte{EncodeClaims(domain2, cycle, other), EncodeClaims(domain2, cycle, claims2)})
	if err != nil {
		t.Fatal(err)
	}
	for name, cert := range map[string]Certificate{"single": single, "batch": batch[1]} {
		text, err := json.Marshal(cert)
		if err != nil {
			t.Fatal(err)
		}
		var back Certificate
		if err := json.Unmarshal(text, &back); err != nil {
			t.Fatal(err)
		}
		if got, err := v.Verify(back, claims2); err != nil || got != cycle {
			t.Errorf("%s: %s, %v", name, got, err)
		}
		for member, change := range policyChanges {
			_, err := v.Verify(back, changed(claims2, change))
			var m *MismatchError
			if !errors.As(err, &m) || m.Field != member {
				t.Errorf("%s, another %s: %v", name, member, err)
			}
		}
		_, err = v.Verify(back, claims)
		wantErr(t, err, ErrMismatch)
	}
	// An operator that certifies under the other version's domain, or both versions in one batch, certifies nothing.
	wrong, err := a.Certify(EncodeClaims(domain, cycle, claims2))
	if err != nil {
		t.Fatal(err)
	}
	_, err = v.Verify(wrong, claims2)
	wantErr(t, err, ErrForeign)
	_, err = a.CertifyBatch(domain, cycle, [][]byte{EncodeClaims(domain, cycle, claims), EncodeClaims(domain, cycle, claims2)})
	wantErr(t, err, ErrCertificate)
	// A batch that was verified under one domain does not stand for one under the other.
	mixed := []evm.Hash{batchLeaf(EncodeClaims(domain, cycle, claims)), batchLeaf(EncodeClaims(domain2, cycle, claims2))}
	proofs := batchProofs(mixed)
	message := batchMessage(domain, proofs[0].Root, cycle, 2)
	sig, err := a.sign(message[:])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.Verify(Certificate{EncodeClaims(domain, cycle, claims), sig, &proofs[0]}, claims); err != nil {
		t.Fatal(err)
	}
	_, err = v.Verify(Certificate{EncodeClaims(domain2, cycle, claims2), sig, &proofs[1]}, claims2)
	wantErr(t, err, ErrCertificate)
}

func TestCheckPolicy(t *testing.T) {
	t.Parallel()
	for name, change := range policyChanges {
		if err := changed(claims2, change).CheckPolicy(84532); !errors.Is(err, ErrPolicy) {
			t.Errorf("another %s: %v", name, err)
		}
	}
	for name, change := range map[string]func(*Policy){
		"job hash zero": func(p *Policy) { p.JobHash = evm.Hash{} },
		"score 0":       func(p *Policy) { p.MinScore = 0 },
		"score 101":     func(p *Policy) { p.MinScore = 101 },
		"another chain": func(p *Policy) { p.ChainID = 1 },
		"long tag":      func(p *Policy) { p.Tag = strings.Repeat("t", TagBytesMax+1) },
	} {
		p := policy
		change(&p)
		if err := claims.Bind(p).CheckPolicy(84532); !errors.Is(err, ErrPolicy) {
			t.Errorf("%s: %v", name, err)
		}
	}
	moved := claims2
	moved.Amount = money.Units(99_999)
	wantErr(t, moved.CheckPolicy(84532), ErrPolicy)
	if err := claims.CheckPolicy(84532); err != nil {
		t.Errorf("no policy: %v", err)
	}
}

func TestMet(t *testing.T) {
	t.Parallel()
	good := Answer{Validator: policy.Validator, AgentID: policy.AgentID, Response: 80, Tag: policy.Tag, LastUpdate: 1}
	for name, c := range map[string]struct {
		change func(*Answer)
		met    bool
	}{
		"just enough":       {func(a *Answer) {}, true},
		"more":              {func(a *Answer) { a.Response = 100 }, true},
		"one too few":       {func(a *Answer) { a.Response = 79 }, false},
		"never answered":    {func(a *Answer) { a.LastUpdate = 0 }, false},
		"another validator": {func(a *Answer) { a.Validator[0] ^= 1 }, false},
		"another agent":     {func(a *Answer) { a.AgentID[0] ^= 1 }, false},
		"another tag":       {func(a *Answer) { a.Tag = "soft-finality" }, false},
		"no tag":            {func(a *Answer) { a.Tag = "" }, false},
	} {
		a := good
		c.change(&a)
		if policy.Met(a) != c.met {
			t.Errorf("%s: met is %v", name, !c.met)
		}
	}
}

func TestKeptPolicy(t *testing.T) {
	t.Parallel()
	p := *claims2.Policy
	back, err := ParsePolicy(p.Bytes())
	if err != nil || *back != p {
		t.Errorf("%+v, %v", back, err)
	}
	short := p.Bytes()[:255]
	padded := p.Bytes()
	padded[0] = 1
	for _, b := range [][]byte{nil, short, padded} {
		_, err := ParsePolicy(b)
		wantErr(t, err, ErrMalformed)
	}
}

// Every way in which clients write claims of version 2 gives the same claims.
func TestPolicySpellings(t *testing.T) {
	t.Parallel()
	flat := string(vec.V2.Request)
	var o struct{ Claims map[string]json.RawMessage }
	if err := json.Unmarshal(vec.V2.Request, &o); err != nil {
		t.Fatal(err)
	}
	spell := func(change func(members map[string]json.RawMessage)) string {
		members := maps.Clone(o.Claims)
		change(members)
		b, err := json.Marshal(map[string]any{"claims": members, "signature": vec.V2.EIP712.Signature, "scheme": "eip712"})
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	nest := func(name func(string) string) string {
		return spell(func(members map[string]json.RawMessage) {
			inner := map[string]json.RawMessage{}
			for k := range policyChanges {
				inner[name(k)] = members[k]
				delete(members, k)
			}
			b, err := json.Marshal(inner)
			if err != nil {
				t.Fatal(err)
			}
			members["validation_policy"] = b
		})
	}
	camel := func(snake string) string {
		words := strings.Split(snake, "_")
		for i, w := range words[1:] {
			words[i+1] = strings.ToUpper(w[:1]) + w[1:]
		}
		return strings.Join(words, "")
	}
	for name, text := range map[string]string{
		"flat":              flat,
		"nested":            nest(func(s string) string { return s }),
		"nested, camelCase": nest(camel),
		"number":            spell(func(m map[string]json.RawMessage) { m["version"] = json.RawMessage(`2`) }),
		"number as text":    spell(func(m map[string]json.RawMessage) { m["version"] = json.RawMessage(`"2"`) }),
		"decimal agent":     spell(func(m map[string]json.RawMessage) { m["validator_agent_id"] = json.RawMessage(`"42"`) }),
		"chain as text":     spell(func(m map[string]json.RawMessage) { m["validation_chain_id"] = json.RawMessage(`"0x14a34"`) }),
		"nested is null":    spell(func(m map[string]json.RawMessage) { m["validation_policy"] = json.RawMessage(`null`) }),
	} {
		s := signed(t, json.RawMessage(text))
		if digest, err := s.Verify(vec.Common.ClaimsSeparator, Rules{}); err != nil || digest != vec.V2.EIP712.Digest {
			t.Errorf("%s: %s, %v", name, digest, err)
		}
	}
	untagged := signed(t, json.RawMessage(spell(func(m map[string]json.RawMessage) { delete(m, "required_validation_tag") })))
	if untagged.Claims.Policy.Tag != "" {
		t.Errorf("tag %q", untagged.Claims.Policy.Tag)
	}
	for name, text := range map[string]string{
		"score past 8 bits": spell(func(m map[string]json.RawMessage) { m["min_validation_score"] = json.RawMessage(`256`) }),
		"tag is a number":   spell(func(m map[string]json.RawMessage) { m["required_validation_tag"] = json.RawMessage(`5`) }),
		"long tag": spell(func(m map[string]json.RawMessage) {
			m["required_validation_tag"] = json.RawMessage(`"` + strings.Repeat("t", TagBytesMax+1) + `"`)
		}),
		"nested is text":  spell(func(m map[string]json.RawMessage) { m["validation_policy"] = json.RawMessage(`"x"`) }),
		"no request hash": spell(func(m map[string]json.RawMessage) { delete(m, "validation_request_hash") }),
		"no job":          spell(func(m map[string]json.RawMessage) { delete(m, "job_hash") }),
	} {
		var s Signed
		if err := s.UnmarshalJSON([]byte(text)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The whole way of a payment that depends on validation, with the published bytes.
func TestVectorPolicyPayment(t *testing.T) {
	t.Parallel()
	var r x402.Requirements
	if err := json.Unmarshal(vec.X402["paymentRequirementsV2_withPolicy"], &r); err != nil {
		t.Fatal(err)
	}
	s, err := Pay(t.Context(), payerKey(t), deployment, r, claims.ReqID, time.Unix(1782122400, 0))
	if err != nil {
		t.Fatal(err)
	}
	payload, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	var envelope struct{ Payload json.RawMessage }
	if err := json.Unmarshal(vec.X402["v2_policy_decoded"], &envelope); err != nil {
		t.Fatal(err)
	}
	if want := compact(t, envelope.Payload); string(payload) != want {
		t.Errorf("payload %s, want %s", payload, want)
	}
	if err := Matches(s, r); err != nil {
		t.Error(err)
	}
	snake := r
	snake.Extra = map[string]json.RawMessage{}
	for _, m := range policyMembers {
		snake.Extra[m.claims] = r.Extra[m.extra]
	}
	if err := Matches(s, snake); err != nil {
		t.Errorf("snake_case: %v", err)
	}
	for _, m := range policyMembers {
		without := r
		without.Extra = maps.Clone(r.Extra)
		delete(without.Extra, m.extra)
		want := ErrMalformed // a part of a policy is none
		if m.optional {
			want = ErrMismatch
		}
		wantErr(t, Matches(s, without), want)
		err := Matches(Signed{Claims: changed(s.Claims, policyChanges[m.claims])}, r)
		var mismatch *MismatchError
		if !errors.As(err, &mismatch) || mismatch.Field != m.extra {
			t.Errorf("another %s: %v", m.extra, err)
		}
	}
	// The hashes are not in the requirement, so they must follow from what is.
	for _, name := range []string{"validation_request_hash", "validation_subject_hash"} {
		wantErr(t, Matches(Signed{Claims: changed(s.Claims, policyChanges[name])}, r), ErrPolicy)
	}
	wantErr(t, Matches(signed(t, vec.V1.Request), r), ErrVersion)
	hopeless := r
	hopeless.Extra = maps.Clone(r.Extra)
	hopeless.Extra["minValidationScore"] = json.RawMessage(`0`)
	_, err = Pay(t.Context(), payerKey(t), deployment, hopeless, claims.ReqID, time.Unix(1782122400, 0))
	wantErr(t, err, ErrPolicy)
}

package guarantee

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/money"
)

// numbered returns claims that differ from all others in their request id and amount.
func numbered(i int) Claims {
	c := claims
	c.ReqID = evm.WordUint64(uint64(i) + 1)
	c.Amount = money.Units(uint64(i) + 1)
	return c
}

var (
	domain = deployment.CertificateDomain()
	cycle  = CycleID(claims.Asset, cycleStart)
)

func batch(t testing.TB, a *Authority, n int) []Certificate {
	t.Helper()
	list := make([][]byte, n)
	for i := range list {
		list[i] = EncodeClaims(domain, cycle, numbered(i))
	}
	certs, err := a.CertifyBatch(domain, cycle, list)
	if err != nil {
		t.Fatal(err)
	}
	return certs
}

func TestBatchVerifies(t *testing.T) {
	t.Parallel()
	for n := range 34 {
		if n == 0 {
			continue
		}
		v := verifier(t, deployment)
		for i, cert := range batch(t, authority(t), n) {
			got, err := v.Verify(cert, numbered(i))
			if err != nil || got != cycle {
				t.Fatalf("item %d of %d: %s, %v", i, n, got, err)
			}
			_, err = v.Verify(cert, numbered(i+1))
			wantErr(t, err, ErrMismatch)
		}
		if len(v.known) != 1 || v.recent.Len() != 1 {
			t.Errorf("%d batches remembered, want 1", len(v.known))
		}
	}
}

// The bytes of a batch, put together by hand: a contract has to agree with them.
func TestBatchBytes(t *testing.T) {
	t.Parallel()
	certs := batch(t, authority(t), 3)
	var leaves [3]evm.Hash
	for i := range leaves {
		leaves[i] = evm.Keccak256(append([]byte{0}, certs[i].Claims...))
	}
	pair := evm.Keccak256(slices.Concat([]byte{1}, leaves[0][:], leaves[1][:]))
	root := evm.Keccak256(slices.Concat([]byte{1}, pair[:], leaves[2][:]))
	want := []Inclusion{
		{root, 0, 3, []evm.Hash{leaves[1], leaves[2]}},
		{root, 1, 3, []evm.Hash{leaves[0], leaves[2]}},
		{root, 2, 3, []evm.Hash{pair}}, // moves up a level alone
	}
	for i, cert := range certs {
		if diff := cmp.Diff(want[i], *cert.Batch); diff != "" {
			t.Errorf("proof %d (-want +got):\n%s", i, diff)
		}
	}
	tag := evm.Keccak256([]byte("FARTHING_BATCH_V1"))
	message := slices.Concat(tag[:], domain[:], root[:], cycle[:], []byte{0, 0, 0, 3, 0, 0, 0, 0})
	if len(message) != 136 {
		t.Fatalf("%d bytes", len(message))
	}
	sig, err := authority(t).sign(message)
	if err != nil || sig != certs[0].Signature {
		t.Errorf("signature %x, %v", certs[0].Signature, err)
	}
}

func TestBatchJSON(t *testing.T) {
	t.Parallel()
	for _, n := range []int{1, 5} {
		for i, cert := range batch(t, authority(t), n) {
			text, err := json.Marshal(cert)
			if err != nil {
				t.Fatal(err)
			}
			var back Certificate
			if err := json.Unmarshal(text, &back); err != nil {
				t.Fatal(err)
			}
			if _, err := verifier(t, deployment).Verify(back, numbered(i)); err != nil {
				t.Error(err)
			}
			again, err := json.Marshal(back)
			if err != nil || !bytes.Equal(again, text) {
				t.Errorf("encoded again: %s, %v", again, err)
			}
		}
	}
}

// A certificate with any byte changed must not verify, also for a reader that asks for what the changed claims say,
// and also when the batch that it pretends to be of is already known.
func TestChangedByteNeverVerifies(t *testing.T) {
	t.Parallel()
	single, err := authority(t).Certify(EncodeClaims(domain, cycle, claims))
	if err != nil {
		t.Fatal(err)
	}
	certs := batch(t, authority(t), 3)
	for name, c := range map[string]struct {
		cert Certificate
		want Claims
	}{
		"single":          {single, claims},
		"batch":           {certs[0], numbered(0)},
		"batch, promoted": {certs[2], numbered(2)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := verifier(t, deployment)
			if _, err := v.Verify(c.cert, c.want); err != nil {
				t.Fatal(err)
			}
			refuse := func(part string, at int, cert Certificate) {
				t.Helper()
				if _, err := v.Verify(cert, c.want); err == nil {
					t.Errorf("%s byte %d changed: verifies", part, at)
				}
				if _, _, got, err := DecodeClaims(cert.Claims); err == nil {
					if _, err := v.Verify(cert, got); err == nil {
						t.Errorf("%s byte %d changed: verifies for what it now says", part, at)
					}
				}
			}
			for i := range c.cert.Claims {
				cert := c.cert
				cert.Claims = bytes.Clone(cert.Claims)
				cert.Claims[i] ^= 1 << (i % 8)
				refuse("claims", i, cert)
			}
			for i := range c.cert.Signature {
				cert := c.cert
				cert.Signature[i] ^= 1 << (i % 8)
				refuse("signature", i, cert)
			}
			if c.cert.Batch == nil {
				return
			}
			for i := range c.cert.Batch.Root {
				cert, proof := c.cert, *c.cert.Batch
				proof.Root[i] ^= 1 << (i % 8)
				cert.Batch = &proof
				refuse("root", i, cert)
			}
			for s := range c.cert.Batch.Siblings {
				for i := range c.cert.Batch.Siblings[s] {
					cert, proof := c.cert, *c.cert.Batch
					proof.Siblings = slices.Clone(proof.Siblings)
					proof.Siblings[s][i] ^= 1 << (i % 8)
					cert.Batch = &proof
					refuse(fmt.Sprintf("sibling %d", s), i, cert)
				}
			}
			for bit := range 32 {
				cert, proof := c.cert, *c.cert.Batch
				proof.Index ^= 1 << bit
				cert.Batch = &proof
				refuse("index bit", bit, cert)
				cert, proof = c.cert, *c.cert.Batch
				proof.Size ^= 1 << bit
				cert.Batch = &proof
				refuse("size bit", bit, cert)
			}
		})
	}
}

func TestBatchAttacks(t *testing.T) {
	t.Parallel()
	a := authority(t)
	certs := batch(t, a, 5)
	others := batch(t, a, 4)
	with := func(cert Certificate, change func(*Certificate, *Inclusion)) Certificate {
		proof := *cert.Batch
		proof.Siblings = slices.Clone(proof.Siblings)
		cert.Batch = &proof
		change(&cert, &proof)
		return cert
	}
	leaf := func(i int) evm.Hash { return batchLeaf(certs[i].Claims) }
	for _, c := range []struct {
		name string
		cert Certificate
		want Claims
		err  error
	}{
		{"proof of another leaf", with(certs[0], func(c *Certificate, p *Inclusion) { c.Batch = certs[1].Batch }), numbered(0), ErrProof},
		{"proof of another batch", with(certs[0], func(c *Certificate, p *Inclusion) { c.Batch = others[0].Batch }), numbered(0), ErrCertificate},
		{"signature of another batch", with(certs[0], func(c *Certificate, p *Inclusion) { c.Signature = others[0].Signature }), numbered(0), ErrCertificate},
		{"proof too short", with(certs[0], func(c *Certificate, p *Inclusion) { p.Siblings = p.Siblings[:len(p.Siblings)-1] }), numbered(0), ErrProof},
		{"proof too long", with(certs[0], func(c *Certificate, p *Inclusion) { p.Siblings = append(p.Siblings, evm.Hash{}) }), numbered(0), ErrProof},
		{"sibling for a promoted node", with(certs[4], func(c *Certificate, p *Inclusion) { p.Siblings = append([]evm.Hash{leaf(4)}, p.Siblings...) }), numbered(4), ErrProof},
		{"index past the end", with(certs[4], func(c *Certificate, p *Inclusion) { p.Index = 5 }), numbered(4), ErrProof},
		{"no leaves", with(certs[4], func(c *Certificate, p *Inclusion) { p.Size = 0 }), numbered(4), ErrProof},
		{"index of the sibling", with(certs[0], func(c *Certificate, p *Inclusion) { p.Index = 1 }), numbered(0), ErrProof},
		// A smaller tree with the same root: the size is signed, so a shortened path does not help.
		{"inner node shown as a leaf", with(certs[0], func(c *Certificate, p *Inclusion) {
			left, right := leaf(0), leaf(1)
			c.Claims = slices.Concat([]byte{0x01}, left[:], right[:])
			p.Size, p.Siblings = 3, p.Siblings[1:]
		}), numbered(0), ErrCertificate},
		{"another size with a proof that fits", with(certs[4], func(c *Certificate, p *Inclusion) { p.Size, p.Index = 2, 1 }), numbered(4), ErrCertificate},
		{"batch signature as a single one", with(certs[0], func(c *Certificate, p *Inclusion) { c.Batch = nil }), numbered(0), ErrCertificate},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			warm, cold := verifier(t, deployment), verifier(t, deployment)
			if _, err := warm.Verify(certs[0], numbered(0)); err != nil {
				t.Fatal(err)
			}
			for _, v := range []*Verifier{warm, cold} {
				if _, err := v.Verify(c.cert, c.want); !errors.Is(err, c.err) {
					t.Errorf("error is %v, want %v", err, c.err)
				}
			}
		})
	}
}

// A batch of one has its leaf as root: its signature must not serve its claims as a single certificate, nor the other
// way round, nor may the message that is signed for a batch ever be certified as claims.
func TestSingleAndBatchDoNotMix(t *testing.T) {
	t.Parallel()
	a, v := authority(t), verifier(t, deployment)
	b := EncodeClaims(domain, cycle, claims)
	single, err := a.Certify(b)
	if err != nil {
		t.Fatal(err)
	}
	certs, err := a.CertifyBatch(domain, cycle, [][]byte{b})
	if err != nil {
		t.Fatal(err)
	}
	_, err = v.Verify(Certificate{Claims: b, Signature: certs[0].Signature}, claims)
	wantErr(t, err, ErrCertificate)
	_, err = v.Verify(Certificate{Claims: b, Signature: single.Signature, Batch: certs[0].Batch}, claims)
	wantErr(t, err, ErrCertificate)
	message := batchMessage(domain, certs[0].Batch.Root, cycle, 1)
	_, err = a.Certify(message[:])
	wantErr(t, err, ErrCertificate)
	_, err = a.Certify(append(message[:], make([]byte, ClaimsBytes-len(message))...))
	wantErr(t, err, ErrCertificate)
}

func TestForeignCertificates(t *testing.T) {
	t.Parallel()
	otherChain, otherVault := deployment, deployment
	otherChain.ChainID++
	otherVault.Vault[19] ^= 1
	for name, d := range map[string]Deployment{"other chain": otherChain, "other vault": otherVault} {
		a := authority(t)
		b := EncodeClaims(d.CertificateDomain(), cycle, claims)
		cert, err := a.Certify(b)
		if err != nil {
			t.Fatal(err)
		}
		certs, err := a.CertifyBatch(d.CertificateDomain(), cycle, [][]byte{b})
		if err != nil {
			t.Fatal(err)
		}
		for _, cert := range []Certificate{cert, certs[0]} {
			if _, err := verifier(t, d).Verify(cert, claims); err != nil {
				t.Errorf("%s at home: %v", name, err)
			}
			if _, err := verifier(t, deployment).Verify(cert, claims); !errors.Is(err, ErrForeign) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

// Claims of one domain and cycle inside a batch signed for another would let one signature speak for both.
func TestCertifyBatchRefuses(t *testing.T) {
	t.Parallel()
	a := authority(t)
	good := EncodeClaims(domain, cycle, claims)
	for name, list := range map[string][][]byte{
		"nothing":      nil,
		"other domain": {good, EncodeClaims(evm.Hash{1}, cycle, claims)},
		"other cycle":  {good, EncodeClaims(domain, evm.Hash{1}, claims)},
		"not claims":   {good, good[1:]},
		"empty claims": {{}},
	} {
		if _, err := a.CertifyBatch(domain, cycle, list); !errors.Is(err, ErrCertificate) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// An operator that mixes cycles in one tree gains nothing: the cycle signed is the one that the claims name.
func TestVerifyLeafOfAnotherCycle(t *testing.T) {
	t.Parallel()
	a, v := authority(t), verifier(t, deployment)
	other := CycleID(claims.Asset, cycleStart+86400)
	list := [][]byte{EncodeClaims(domain, cycle, numbered(0)), EncodeClaims(domain, other, numbered(1))}
	proofs := batchProofs([]evm.Hash{batchLeaf(list[0]), batchLeaf(list[1])})
	message := batchMessage(domain, proofs[0].Root, cycle, 2)
	sig, err := a.sign(message[:])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.Verify(Certificate{list[0], sig, &proofs[0]}, numbered(0)); err != nil {
		t.Error(err)
	}
	_, err = v.Verify(Certificate{list[1], sig, &proofs[1]}, numbered(1))
	wantErr(t, err, ErrCertificate)
}

func TestMismatchNamesField(t *testing.T) {
	t.Parallel()
	cert, err := authority(t).Certify(EncodeClaims(domain, cycle, claims))
	if err != nil {
		t.Fatal(err)
	}
	v := verifier(t, deployment)
	for field, change := range map[string]func(*Claims){
		"user_address":      func(c *Claims) { c.Payer[0] ^= 1 },
		"recipient_address": func(c *Claims) { c.Payee[0] ^= 1 },
		"asset_address":     func(c *Claims) { c.Asset[0] ^= 1 },
		"req_id":            func(c *Claims) { c.ReqID[0] ^= 1 },
		"amount":            func(c *Claims) { c.Amount = money.Units(99999) },
		"timestamp":         func(c *Claims) { c.Timestamp++ },
	} {
		want := claims
		change(&want)
		_, err := v.Verify(cert, want)
		wantErr(t, err, ErrMismatch)
		var m *MismatchError
		if !errors.As(err, &m) || m.Field != field || m.Got == m.Want {
			t.Errorf("%s: %v", field, err)
		}
	}
}

func TestNewAuthorityRefuses(t *testing.T) {
	t.Parallel()
	order := unhex(t, "0x73eda753299d7d483339d80809a1d80553bda402fffe5bfeffffffff00000001")
	for name, secret := range map[string][]byte{
		"zero": make([]byte, 32), "the group order": order, "above it": bytes.Repeat([]byte{0xff}, 32),
		"short": order[:31], "long": append([]byte{0}, order...), "nothing": nil,
	} {
		if _, err := NewAuthority(secret); !errors.Is(err, ErrKey) {
			t.Errorf("%s: %v", name, err)
		}
	}
	order[31]--
	a, err := NewAuthority(order) // −1: the negated generator
	if err != nil {
		t.Fatal(err)
	}
	if a.PublicKey() != PublicKey(negatedG1.Bytes()) {
		t.Errorf("key %s", a.PublicKey())
	}
}

// Whoever logs an authority must not log its secret.
func TestAuthorityHidesSecret(t *testing.T) {
	t.Parallel()
	a := authority(t)
	want := "authority " + a.PublicKey().String()
	for _, verb := range []string{"%v", "%+v", "%s", "%#v"} {
		if got := fmt.Sprintf(verb, a); got != want {
			t.Errorf("%s prints %s", verb, got)
		}
	}
	if got := a.LogValue().String(); got != want {
		t.Errorf("logged as %s", got)
	}
}

func TestPublicKeyRefuses(t *testing.T) {
	t.Parallel()
	good := authority(t).PublicKey()
	outside := PublicKey(unhex(t, "0x800000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000004"))
	for name, k := range map[string]PublicKey{
		"zeros":                {},
		"uncompressed flag":    func() PublicKey { k := good; k[0] &^= 0x80; return k }(),
		"infinity with a sign": {0xe0},
		"infinity with digits": {0xc0, 47: 1},
		"x not reduced":        PublicKey(unhex(t, "0x9a0111ea397fe69a4b1ba7b6434bacd764774b84f38512bf6730d2a0f6b0f6241eabfffeb153ffffb9feffffffffaaab")),
		"outside the subgroup": outside,
	} {
		if _, err := NewVerifier(k, deployment); !errors.Is(err, ErrKey) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, text := range []string{``, `null`, `[]`, `[1,2]`, `"0x00"`, `{}`, `17`, `"zz"`, `[256` + strings.Repeat(",1", 47) + `]`, `[-1` + strings.Repeat(",1", 47) + `]`, `[1` + strings.Repeat(",1", 48) + `]`} {
		var k PublicKey
		if err := k.UnmarshalJSON([]byte(text)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// A proof of possession is a signature of its own message, bound to the deployment, and of no use as a certificate.
func TestProvePossession(t *testing.T) {
	t.Parallel()
	a := authority(t)
	key, proof, err := a.ProvePossession(deployment)
	if err != nil {
		t.Fatal(err)
	}
	if want, err := a.PublicKey().G1Words(); err != nil || key != want {
		t.Errorf("key %x, %v", key, err)
	}
	tag := evm.Keccak256([]byte("FARTHING_KEY_V1"))
	sig, err := a.sign(slices.Concat(tag[:], domain[:], key[0][:], key[1][:], key[2][:], key[3][:]))
	if err != nil {
		t.Fatal(err)
	}
	if want, err := signatureWords(sig); err != nil || proof != want {
		t.Errorf("proof %x, %v", proof, err)
	}
	other := deployment
	other.Vault[0] ^= 1
	if _, elsewhere, err := a.ProvePossession(other); err != nil || elsewhere == proof {
		t.Errorf("one proof for two vaults, %v", err)
	}
}

func TestCertificateJSONRefuses(t *testing.T) {
	t.Parallel()
	cert := batch(t, authority(t), 3)[0]
	good, err := json.Marshal(cert)
	if err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat(`"`+domain.String()+`",`, siblingsMax) + `"`
	for name, change := range map[string][2]string{
		"claims twice":       {`{"claims"`, `{"claims":"","claims"`},
		"claims missing":     {`"claims"`, `"claim"`},
		"claims short":       {`"claims":"00`, `"claims":"`},
		"claims not hex":     {`"claims":"00`, `"claims":"0g`},
		"claims prefixed":    {`"claims":"0000`, `"claims":"0x0x`},
		"signature number":   {`"signature":"`, `"signature":5,"was":"`},
		"batch is a list":    {`"batch":{`, `"batch":[],"was":{`},
		"root missing":       {`"root"`, `"roots"`},
		"root number":        {`"root":"`, `"root":7,"was":"`},
		"root short":         {`"root":"0x`, `"root":"0x12","was":"`},
		"index missing":      {`"index"`, `"place"`},
		"index twice":        {`"index"`, `"index":1,"index"`},
		"index negative":     {`"index":0`, `"index":-1`},
		"index fraction":     {`"index":0`, `"index":0.5`},
		"index past 32 bits": {`"index":0`, `"index":4294967296`},
		"index past 64 bits": {`"index":0`, `"index":18446744073709551616`},
		"size missing":       {`"size"`, `"length"`},
		"size past 32 bits":  {`"size":3`, `"size":4294967299`},
		"siblings missing":   {`"siblings"`, `"brothers"`},
		"siblings null":      {`"siblings":`, `"siblings":null,"was":`},
		"siblings an object": {`"siblings":`, `"siblings":{},"was":`},
		"siblings short":     {`"siblings":[`, `"siblings":["0x00",`},
		"too many siblings":  {`"siblings":["`, `"siblings":[` + long},
	} {
		text := strings.Replace(string(good), change[0], change[1], 1)
		if text == string(good) {
			t.Errorf("%s: not changed", name)
		}
		var c Certificate
		if err := json.Unmarshal([]byte(text), &c); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	var c Certificate
	if err := json.Unmarshal([]byte(`{"batch":null,`+string(good)[1:strings.Index(string(good), `,"batch"`)]+`}`), &c); err != nil || c.Batch != nil {
		t.Errorf("batch null: %+v, %v", c.Batch, err)
	}
}

// One verifier, many requests at once, some of them false: true ones pass, false ones do not, and the memory is right.
func TestVerifierConcurrently(t *testing.T) {
	t.Parallel()
	certs := batch(t, authority(t), 16)
	v := verifier(t, deployment)
	var wg sync.WaitGroup
	for i, cert := range certs {
		wg.Go(func() {
			if _, err := v.Verify(cert, numbered(i)); err != nil {
				t.Error(err)
			}
		})
		wg.Go(func() {
			wrong := cert
			wrong.Signature[95] ^= 1
			if _, err := v.Verify(wrong, numbered(i)); err == nil {
				t.Error("false signature verifies")
			}
		})
	}
	wg.Wait()
	if len(v.known) != 1 {
		t.Errorf("%d batches remembered", len(v.known))
	}
}

func TestVerifierForgets(t *testing.T) {
	t.Parallel()
	v := verifier(t, deployment)
	name := func(i uint64) batchName { return batchName{root: evm.WordUint64(i)} }
	v.remember(name(0), [96]byte{1})
	v.remember(name(1), [96]byte{2})
	for i := uint64(2); i < batchesRemembered; i++ {
		v.remember(name(i), [96]byte{})
	}
	if sig, ok := v.recall(name(0)); !ok || sig != [96]byte{1} {
		t.Fatal("forgotten too early")
	}
	v.remember(name(batchesRemembered), [96]byte{})
	if _, ok := v.recall(name(1)); ok {
		t.Error("the one unused for longest is still there")
	}
	if _, ok := v.recall(name(0)); !ok {
		t.Error("the one just used is gone")
	}
	if len(v.known) != batchesRemembered || v.recent.Len() != batchesRemembered {
		t.Errorf("%d and %d remembered", len(v.known), v.recent.Len())
	}
}

// For any size, each leaf has a proof, and no other index, size, leaf or length passes for it.
func TestBatchProofProperties(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.IntRange(1, 300).Draw(t, "size")
		leaves := make([]evm.Hash, size)
		for i := range leaves {
			leaves[i] = evm.Keccak256([]byte{byte(i), byte(i >> 8)})
		}
		proofs := batchProofs(leaves)
		i := rapid.IntRange(0, size-1).Draw(t, "index")
		j := rapid.IntRange(0, size-1).Draw(t, "other")
		p := proofs[i]
		if err := p.check(leaves[i]); err != nil {
			t.Fatal(err)
		}
		if i != j && p.check(leaves[j]) == nil {
			t.Fatal("another leaf passes")
		}
		wrong := p
		wrong.Index = uint32(j)
		if i != j && wrong.check(leaves[i]) == nil {
			t.Fatal("another index passes")
		}
		wrong = p
		wrong.Siblings = append(slices.Clone(p.Siblings), leaves[j])
		if wrong.check(leaves[i]) == nil {
			t.Fatal("a longer proof passes")
		}
		if len(p.Siblings) > 0 {
			wrong.Siblings = p.Siblings[:len(p.Siblings)-1]
			if wrong.check(leaves[i]) == nil {
				t.Fatal("a shorter proof passes")
			}
		}
	})
}

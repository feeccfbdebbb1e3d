package guarantee

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/money"
)

// vectors is what testdata/4mica-credit.json says, as far as the tests look at it.
type vectors struct {
	Common struct {
		PrivateKey        string
		ChainID           uint64                         `json:"chainId"`
		Domain            struct{ Name, Version string } `json:"eip712Domain"`
		Vault             evm.Address                    `json:"core4MicaAddress"`
		CertificateDomain evm.Hash                       `json:"guaranteeDomainSeparatorV1"`
		ClaimsSeparator   evm.Hash                       `json:"eip712DomainSeparator"`
	}
	BLS struct {
		SecretKey      string
		PublicKey      string          `json:"publicKeyCompressed"`
		PublicKeyJSON  json.RawMessage `json:"publicKeyJson"`
		PublicKeyWords []evm.Hash      `json:"publicKeySolidityWords_x_a_x_b_y_a_y_b"`
		Messages       []struct {
			Message, Signature string
			Words              []evm.Hash `json:"solidityWords"`
		} `json:"messageVectors"`
	}
	V1 struct {
		EIP712 struct {
			TypeHash  evm.Hash
			Digest    evm.Hash
			Signature evm.Signature
		} `json:"eip712"`
		EIP191 struct {
			Encoded       string        `json:"abiEncodedClaims"`
			TextDigest    evm.Hash      `json:"typescriptSdkDigest_textOfHexString"`
			TextSignature evm.Signature `json:"typescriptSdkSignature"`
			RawDigest     evm.Hash      `json:"rustCoreDigest_rawBytes"`
			RawSignature  evm.Signature `json:"rustCoreSignature"`
		} `json:"eip191"`
		Request json.RawMessage `json:"requestBody"`
	}
	V2 struct {
		Subject evm.Hash `json:"validationSubjectHash"`
		Named   evm.Hash `json:"validationRequestHash"`
		NoTag   evm.Hash `json:"validationRequestHash_withEmptyTag"`
		EIP712  struct {
			TypeHash  evm.Hash
			Digest    evm.Hash
			Signature evm.Signature
		} `json:"eip712"`
		EIP191 struct {
			TextDigest    evm.Hash      `json:"typescriptSdkDigest_textOfHexString"`
			TextSignature evm.Signature `json:"typescriptSdkSignature"`
			RawDigest     evm.Hash      `json:"rustCoreDigest_rawBytes"`
			RawSignature  evm.Signature `json:"rustCoreSignature"`
		} `json:"eip191"`
		Request json.RawMessage `json:"requestBody"`
	}
	Certificate2 struct {
		Inputs            struct{ Domain evm.Hash }
		Claims, Signature string
	} `json:"certificateV2"`
	Certificate struct {
		Inputs struct {
			CycleText string   `json:"cycleIdText"`
			CycleID   evm.Hash `json:"cycleIdHex"`
		}
		Claims, Signature string
		Response          json.RawMessage `json:"responseJson"`
	} `json:"certificateV1"`
	GuaranteeID struct {
		Lower evm.Hash `json:"lowercaseAddresses"`
	} `json:"guaranteeId"`
	Negative struct {
		Payer map[string]json.RawMessage `json:"payerSignature"`
		Cert  struct {
			Flipped []struct {
				What, Claims string
			} `json:"flippedByte"`
			FlippedSignature struct{ Signature string } `json:"flippedByteInSignature"`
			WrongDST         []struct{ What, Signature string }
			WrongKey         struct {
				PublicKeyCompressed, Signature string
			}
			Infinity struct {
				PublicKeyCompressed, Signature string
			} `json:"infinitySignatureAndKey"`
			Negated                struct{ Signature string } `json:"negatedSignature"`
			InfinitySignature      struct{ Signature string }
			NonSubgroup            struct{ Signature string } `json:"nonSubgroupSignature"`
			XNotReduced            struct{ Signature string }
			CompressionFlagCleared struct{ Signature string }
			Truncated              struct{ Signature string }
		} `json:"certificate"`
	}
	X402 map[string]json.RawMessage
}

const cycleStart = 1782086400

var vec = func() (v vectors) {
	b, err := os.ReadFile("testdata/4mica-credit.json")
	if err != nil {
		panic(err)
	}
	if err := json.Unmarshal(b, &v); err != nil {
		panic(err)
	}
	return v
}()

var deployment = Deployment{
	ChainID: vec.Common.ChainID, Name: vec.Common.Domain.Name, Version: vec.Common.Domain.Version, Vault: vec.Common.Vault,
}

var claims = func() Claims {
	amount, _ := money.ParseAmount("100000")
	return Claims{
		Payer:     evm.MustAddress("0x70997970C51812dc3A010C7d01b50e0d17dc79C8"),
		Payee:     evm.MustAddress("0x2222222222222222222222222222222222222222"),
		Asset:     evm.MustAddress("0x036CbD53842c5426634e7929541eC2318f3dCF7e"),
		ReqID:     evm.MustHash("0x5f1d2c3b4a59687786958493a2b1c0dfeedccbbaa99887766554433221100ff1"),
		Amount:    amount,
		Timestamp: 1782122400,
	}
}()

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.TrimPrefix(s, "0x"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func payerKey(t testing.TB) *evm.PrivateKey {
	t.Helper()
	k, err := evm.NewKey(unhex(t, vec.Common.PrivateKey))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func authority(t testing.TB) *Authority {
	t.Helper()
	a, err := NewAuthority(unhex(t, vec.BLS.SecretKey))
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func verifier(t testing.TB, d Deployment) *Verifier {
	t.Helper()
	v, err := NewVerifier(authority(t).PublicKey(), d)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func signed(t testing.TB, body json.RawMessage) Signed {
	t.Helper()
	var s Signed
	if err := json.Unmarshal(body, &s); err != nil {
		t.Fatal(err)
	}
	return s
}

func compact(t testing.TB, b []byte) string {
	t.Helper()
	var out bytes.Buffer
	if err := json.Compact(&out, b); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func wantErr(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("error is %v, want %v", err, want)
	}
}

func TestVectorDomains(t *testing.T) {
	t.Parallel()
	if got := deployment.ClaimsSeparator(); got != vec.Common.ClaimsSeparator {
		t.Errorf("claims separator %s", got)
	}
	if got := deployment.CertificateDomain(); got != vec.Common.CertificateDomain {
		t.Errorf("certificate domain %s", got)
	}
	if got := CycleText(claims.Asset, cycleStart); got != vec.Certificate.Inputs.CycleText {
		t.Errorf("cycle text %s", got)
	}
	if got := CycleID(claims.Asset, cycleStart); got != vec.Certificate.Inputs.CycleID {
		t.Errorf("cycle id %s", got)
	}
	if got := ID(claims, cycleStart); got != vec.GuaranteeID.Lower {
		t.Errorf("guarantee id %s", got)
	}
	if claimsType != vec.V1.EIP712.TypeHash {
		t.Errorf("type hash %s", claimsType)
	}
}

func TestVectorSigned(t *testing.T) {
	t.Parallel()
	s, err := Sign(t.Context(), payerKey(t), deployment, claims)
	if err != nil {
		t.Fatal(err)
	}
	if s.Signature != vec.V1.EIP712.Signature {
		t.Errorf("signature %x", s.Signature)
	}
	body, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(compact(t, vec.V1.Request), string(body)); diff != "" {
		t.Errorf("request body (-want +got):\n%s", diff)
	}
	back := signed(t, vec.V1.Request)
	if back != s {
		t.Errorf("read back %+v", back)
	}
	digest, err := back.Verify(vec.Common.ClaimsSeparator, Rules{})
	if err != nil || digest != vec.V1.EIP712.Digest {
		t.Errorf("verify: %s, %v", digest, err)
	}
}

func TestVectorPersonalForms(t *testing.T) {
	t.Parallel()
	fields := claims.words()
	if !bytes.Equal(fields[:], unhex(t, vec.V1.EIP191.Encoded)) {
		t.Fatalf("encoded claims %x", fields)
	}
	for name, sig := range map[string]evm.Signature{"raw bytes": vec.V1.EIP191.RawSignature, "hexadecimal text": vec.V1.EIP191.TextSignature} {
		s := Signed{Claims: claims, Signature: sig, Form: EIP191}
		digest, err := s.Verify(vec.Common.ClaimsSeparator, Rules{EIP191: true})
		if err != nil || digest != vec.V1.EIP712.Digest {
			t.Errorf("%s: %s, %v", name, digest, err)
		}
		_, err = s.Verify(vec.Common.ClaimsSeparator, Rules{})
		wantErr(t, err, ErrForm)
		s.Form = EIP712 // one form's signature never passes as the other
		_, err = s.Verify(vec.Common.ClaimsSeparator, Rules{EIP191: true})
		wantErr(t, err, ErrSignature)
	}
	s := Signed{Claims: claims, Signature: vec.V1.EIP712.Signature, Form: EIP191}
	_, err := s.Verify(vec.Common.ClaimsSeparator, Rules{EIP191: true})
	wantErr(t, err, ErrSignature)
}

func TestVectorRefusedPayerSignatures(t *testing.T) {
	t.Parallel()
	type variant struct {
		Signature      evm.Signature
		SignatureShort *evm.Signature `json:"signature_v0or1"`
	}
	n := 0
	for name, raw := range vec.Negative.Payer {
		var v variant
		if raw[0] != '{' || json.Unmarshal(raw, &v) != nil || v.Signature == (evm.Signature{}) {
			continue // texts that describe the section
		}
		n++
		sigs := []evm.Signature{v.Signature}
		if v.SignatureShort != nil {
			sigs = append(sigs, *v.SignatureShort)
		}
		for _, sig := range sigs {
			digest, err := Signed{Claims: claims, Signature: sig, Form: EIP712}.Verify(vec.Common.ClaimsSeparator, Rules{})
			switch name {
			case "v0or1", "addressCase":
				if err != nil || digest != vec.V1.EIP712.Digest {
					t.Errorf("%s: %v, want it accepted", name, err)
				}
			case "highS":
				wantErr(t, err, evm.ErrHighS)
				wantErr(t, err, ErrSignature)
			default:
				wantErr(t, err, ErrSignature)
			}
		}
	}
	if n != 8 {
		t.Errorf("%d variants looked at, want 8", n)
	}
}

// Every letter case is one request: same digest, same key.
func TestVectorAddressCase(t *testing.T) {
	t.Parallel()
	var v struct{ Claims map[string]Claims }
	if err := json.Unmarshal(vec.Negative.Payer["addressCase"], &v); err != nil {
		t.Fatal(err)
	}
	if len(v.Claims) != 3 {
		t.Fatalf("%d spellings", len(v.Claims))
	}
	for name, c := range v.Claims {
		if c != claims || c.Key() != claims.Key() {
			t.Errorf("%s: %+v", name, c)
		}
	}
}

func TestVectorCertificate(t *testing.T) {
	t.Parallel()
	b := EncodeClaims(vec.Common.CertificateDomain, vec.Certificate.Inputs.CycleID, claims)
	if !bytes.Equal(b, unhex(t, vec.Certificate.Claims)) {
		t.Fatalf("claims %x", b)
	}
	cert, err := authority(t).Certify(b)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(cert.Signature[:], unhex(t, vec.Certificate.Signature)) {
		t.Errorf("signature %x", cert.Signature)
	}
	text, err := json.Marshal(cert)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(compact(t, vec.Certificate.Response), string(text)); diff != "" {
		t.Errorf("response (-want +got):\n%s", diff)
	}
	prefixed, err := json.Marshal(map[string]string{"claims": vec.Certificate.Claims, "signature": vec.Certificate.Signature})
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range [][]byte{text, prefixed} {
		var back Certificate
		if err := json.Unmarshal(text, &back); err != nil {
			t.Fatal(err)
		}
		cycle, err := verifier(t, deployment).Verify(back, claims)
		if err != nil || cycle != vec.Certificate.Inputs.CycleID {
			t.Errorf("verify: %s, %v", cycle, err)
		}
	}
}

func TestVectorPublicKey(t *testing.T) {
	t.Parallel()
	k := authority(t).PublicKey()
	if k.String() != vec.BLS.PublicKey {
		t.Errorf("key %s", k)
	}
	text, err := json.Marshal(k)
	if err != nil {
		t.Fatal(err)
	}
	if want := compact(t, vec.BLS.PublicKeyJSON); string(text) != want {
		t.Errorf("key %s, want %s", text, want)
	}
	for _, form := range []string{string(text), `"` + vec.BLS.PublicKey + `"`, `"` + vec.BLS.PublicKey[2:] + `"`} {
		var back PublicKey
		if err := json.Unmarshal([]byte(form), &back); err != nil || back != k {
			t.Errorf("%.20s: %s, %v", form, back, err)
		}
	}
	words, err := k.G1Words()
	if err != nil {
		t.Fatal(err)
	}
	for i, w := range words {
		if evm.Hash(w) != vec.BLS.PublicKeyWords[i] {
			t.Errorf("word %d is %x", i, w)
		}
	}
}

func TestVectorMessages(t *testing.T) {
	t.Parallel()
	a := authority(t)
	key, err := a.PublicKey().point()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range vec.BLS.Messages {
		sig, err := a.sign(unhex(t, m.Message))
		if err != nil || !bytes.Equal(sig[:], unhex(t, m.Signature)) {
			t.Errorf("sign %s: %x, %v", m.Message, sig, err)
		}
		words, err := signatureWords(sig)
		if err != nil || len(m.Words) != len(words) {
			t.Fatalf("words of %s: %v", m.Message, err)
		}
		for i, w := range words {
			if evm.Hash(w) != m.Words[i] {
				t.Errorf("word %d of %s is %x", i, m.Message, w)
			}
		}
		if err := verifySignature(key, unhex(t, m.Message), sig); err != nil {
			t.Errorf("verify %s: %v", m.Message, err)
		}
	}
}

func TestVectorRefusedCertificates(t *testing.T) {
	t.Parallel()
	n := vec.Negative.Cert
	v := verifier(t, deployment)
	right := unhex(t, vec.Certificate.Claims)
	sig := [96]byte(unhex(t, vec.Certificate.Signature))
	for _, f := range n.Flipped {
		b := unhex(t, f.Claims)
		if bytes.Equal(b, right) {
			t.Fatalf("%s: not changed", f.What)
		}
		if err := verifySignature(v.key, b, sig); err == nil {
			t.Errorf("%s: signature verifies", f.What)
		}
		if _, err := v.Verify(Certificate{Claims: b, Signature: sig}, claims); err == nil {
			t.Errorf("%s: certificate verifies", f.What)
		}
	}
	bad := map[string]string{
		"last byte changed": n.FlippedSignature.Signature, "another key": n.WrongKey.Signature,
		"negated": n.Negated.Signature, "infinity": n.InfinitySignature.Signature,
		"outside the subgroup": n.NonSubgroup.Signature, "x not reduced": n.XNotReduced.Signature,
		"compression flag cleared": n.CompressionFlagCleared.Signature,
	}
	for _, d := range n.WrongDST {
		bad[d.What] = d.Signature
	}
	if len(bad) != 10 {
		t.Fatalf("%d signatures looked at", len(bad))
	}
	for name, text := range bad {
		b := unhex(t, text)
		if len(b) != 96 {
			t.Fatalf("%s: %d bytes", name, len(b))
		}
		_, err := v.Verify(Certificate{Claims: right, Signature: [96]byte(b)}, claims)
		if !errors.Is(err, ErrCertificate) {
			t.Errorf("%s: %v", name, err)
		}
	}
	var c Certificate
	err := json.Unmarshal([]byte(`{"claims":"`+vec.Certificate.Claims+`","signature":"`+n.Truncated.Signature+`"}`), &c)
	wantErr(t, err, ErrMalformed)

	// Under a key at infinity the signature at infinity would verify for every message.
	var infinite PublicKey
	copy(infinite[:], unhex(t, n.Infinity.PublicKeyCompressed))
	_, err = NewVerifier(infinite, deployment)
	wantErr(t, err, ErrKey)
	_, err = infinite.G1Words()
	wantErr(t, err, ErrKey)

	// The vector's other key certifies as well as the first, for those who trust it.
	var other PublicKey
	copy(other[:], unhex(t, n.WrongKey.PublicKeyCompressed))
	ov, err := NewVerifier(other, deployment)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ov.Verify(Certificate{Claims: right, Signature: [96]byte(unhex(t, n.WrongKey.Signature))}, claims); err != nil {
		t.Error(err)
	}
	_, err = ov.Verify(Certificate{Claims: right, Signature: sig}, claims)
	wantErr(t, err, ErrCertificate)
}

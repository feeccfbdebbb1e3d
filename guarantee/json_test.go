package guarantee

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/money"
)

// What is written by hand must be what encoding/json would write of the same members.
func TestWrittenLikeEncodingJSON(t *testing.T) {
	t.Parallel()
	type claimsJSON struct {
		Version   string `json:"version"`
		Payer     string `json:"user_address"`
		Payee     string `json:"recipient_address"`
		ReqID     string `json:"req_id"`
		Amount    string `json:"amount"`
		Asset     string `json:"asset_address"`
		Timestamp uint64 `json:"timestamp"`
	}
	type signedJSON struct {
		Claims    claimsJSON    `json:"claims"`
		Signature evm.Signature `json:"signature"`
		Form      Form          `json:"scheme"`
	}
	type inclusionJSON struct {
		Root     evm.Hash   `json:"root"`
		Index    uint32     `json:"index"`
		Size     uint32     `json:"size"`
		Siblings []evm.Hash `json:"siblings"`
	}
	type certificateJSON struct {
		Claims    string         `json:"claims"`
		Signature string         `json:"signature"`
		Batch     *inclusionJSON `json:"batch,omitempty"`
	}
	for i, form := range []Form{EIP712, EIP191, "", `"<&>` + "\\\n\u2028\xff", "ünïcode"} {
		h := evm.Keccak256([]byte{byte(i)})
		c := Claims{Payer: evm.Address(h[:20]), Payee: evm.Address(h[12:]), Asset: evm.Address{}, ReqID: h, Amount: money.Units(uint64(i)), Timestamp: uint64(i) << 60}
		if i%2 == 1 {
			c.ReqID, c.Amount = evm.Hash{}, money.MaxAmount()
		}
		s := Signed{Claims: c, Form: form}
		copy(s.Signature[:], slices.Repeat(h[:], 3))
		reqID, err := money.AmountFromBytes(c.ReqID[:])
		if err != nil {
			t.Fatal(err)
		}
		wantSigned := signedJSON{claimsJSON{"v1", c.Payer.Lower(), c.Payee.Lower(), reqID.Hex(), c.Amount.Hex(), c.Asset.Lower(), c.Timestamp}, s.Signature, form}
		sameText(t, c, wantSigned.Claims)
		sameText(t, s, wantSigned)

		cert := Certificate{Claims: slices.Repeat(h[:], 12)}
		copy(cert.Signature[:], slices.Repeat(h[:], 3))
		want := certificateJSON{hex.EncodeToString(cert.Claims), hex.EncodeToString(cert.Signature[:]), nil}
		sameText(t, cert, want)
		for _, siblings := range [][]evm.Hash{nil, {}, {h}, {h, {}, h}} {
			p := Inclusion{h, uint32(i), 1<<32 - 1, siblings}
			wantProof := inclusionJSON{h, uint32(i), 1<<32 - 1, append([]evm.Hash{}, siblings...)}
			cert.Batch, want.Batch = &p, &wantProof
			sameText(t, p, wantProof)
			sameText(t, cert, want)
		}
	}
}

func sameText(t *testing.T, got, want any) {
	t.Helper()
	g, err := json.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	w, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(w), string(g)); diff != "" {
		t.Errorf("%T (-want +got):\n%s", got, diff)
	}
}

func TestSiblingsAreAListOfHashes(t *testing.T) {
	t.Parallel()
	hash := `"` + evm.Keccak256(nil).String() + `"`
	proof := func(siblings string) string {
		return fmt.Sprintf(`{"root":%s,"index":0,"size":2,"siblings":%s}`, hash, siblings)
	}
	certificate := func(siblings string) string {
		return fmt.Sprintf(`{"claims":"%s","signature":"%s","batch":%s}`, strings.Repeat("00", ClaimsBytes), strings.Repeat("00", 96), proof(siblings))
	}
	for siblings, want := range map[string]int{
		`[]`: 0, ` [ ] `: 0, `[` + hash + `]`: 1, "[ " + hash + " ,\n" + hash + "\t]": 2, `[` + strings.Repeat(hash+",", 31) + hash + `]`: 32,
		`[` + strings.Repeat(hash+",", 32) + hash + `]`: -1,
		`null`: -1, `{}`: -1, `"x"`: -1, `7`: -1, `[null]`: -1, `[1]`: -1, `[[]]`: -1, `[[` + hash + `]]`: -1, `[{"a":` + hash + `}]`: -1, `["0x12"]`: -1, hash: -1,
	} {
		var p Inclusion
		var c Certificate
		errProof, errCertificate := json.Unmarshal([]byte(proof(siblings)), &p), json.Unmarshal([]byte(certificate(siblings)), &c)
		if want < 0 {
			if errProof == nil || errCertificate == nil {
				t.Errorf("siblings %s: %v, %v, want errors", siblings, errProof, errCertificate)
			}
			continue
		}
		if errProof != nil || errCertificate != nil || len(p.Siblings) != want || len(c.Batch.Siblings) != want {
			t.Errorf("siblings %s: %d and %v, %v", siblings, len(p.Siblings), errProof, errCertificate)
		}
	}
}

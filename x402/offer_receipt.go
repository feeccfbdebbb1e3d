package x402

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strconv"
	"strings"

	"github.com/farthing402/farthing/evm"
)

// Formats of what is signed.
const (
	FormatEIP712 = "eip712"
	FormatJWS    = "jws"
)

// Signed is an offer or a receipt with its signature: in the form eip712 Payload and 65 bytes, in the form jws one text
// that holds all (ES256K).
type Signed struct {
	Format      string          `json:"format"`
	AcceptIndex *int            `json:"acceptIndex,omitempty"` // of an offer in accepts; a hint, no more
	Payload     json.RawMessage `json:"payload,omitempty"`
	Signature   string          `json:"signature"`
}

// Offer is what a seller binds itself to: one way to pay for one resource, until a time.
type Offer struct {
	Version     int    `json:"version"` // 1
	ResourceURL string `json:"resourceUrl"`
	Scheme      string `json:"scheme"`
	Network     string `json:"network"` // CAIP-2
	Asset       string `json:"asset"`
	PayTo       string `json:"payTo"`
	Amount      string `json:"amount"`
	ValidUntil  uint64 `json:"validUntil,omitempty"` // unix seconds; 0: no end
}

// Receipt is what a seller says of a purchase that it served. Amount, Asset and Purchase are more than the published form
// has: the form jws signs them with the rest, and in the form eip712, whose type is fixed, a [Charge] does.
type Receipt struct {
	Version     int    `json:"version"` // 1
	Network     string `json:"network"`
	ResourceURL string `json:"resourceUrl"`
	Payer       string `json:"payer"`
	IssuedAt    uint64 `json:"issuedAt"`    // unix seconds
	Transaction string `json:"transaction"` // "" where the payer's privacy counts for more

	Asset    string `json:"asset,omitempty"`
	Amount   string `json:"amount,omitempty"` // charged, smallest units
	Purchase string `json:"purchase,omitempty"`
}

// receiptJWS is a receipt in the form jws: a transaction that is not told is left out.
type receiptJWS struct {
	Version     int    `json:"version"`
	Network     string `json:"network"`
	ResourceURL string `json:"resourceUrl"`
	Payer       string `json:"payer"`
	IssuedAt    uint64 `json:"issuedAt"`
	Transaction string `json:"transaction,omitempty"`

	Asset    string `json:"asset,omitempty"`
	Amount   string `json:"amount,omitempty"`
	Purchase string `json:"purchase,omitempty"`
}

var (
	offerType = evm.Keccak256([]byte("Offer(uint256 version,string resourceUrl,string scheme,string network,string asset,string payTo,string amount,uint256 validUntil)"))
	// A receipt's type has no amount. A charge is our own type beside it, and says the same and the amount.
	receiptType   = evm.Keccak256([]byte("Receipt(uint256 version,string network,string resourceUrl,string payer,uint256 issuedAt,string transaction)"))
	chargeType    = evm.Keccak256([]byte("Charge(uint256 version,string network,string resourceUrl,string payer,uint256 issuedAt,string transaction,string asset,string amount,string purchase)"))
	offerDomain   = evm.Domain{Name: "x402 offer", Version: "1", ChainID: 1}.Separator()
	receiptDomain = evm.Domain{Name: "x402 receipt", Version: "1", ChainID: 1}.Separator()
	chargeDomain  = evm.Domain{Name: "farthing charge", Version: "1", ChainID: 1}.Separator()
)

// structHash hashes a struct of strings and uint64s.
func structHash(kind evm.Hash, members ...any) evm.Hash {
	b := append(make([]byte, 0, 32*(1+len(members))), kind[:]...)
	for _, m := range members {
		switch v := m.(type) {
		case string:
			h := evm.Keccak256([]byte(v))
			b = append(b, h[:]...)
		case uint64:
			w := evm.WordUint64(v)
			b = append(b, w[:]...)
		}
	}
	return evm.Keccak256(b)
}

// Digest returns what an offer's EIP-712 signature is over.
func (o Offer) Digest() evm.Hash {
	return evm.TypedDigest(offerDomain, structHash(offerType, uint64(o.Version), o.ResourceURL, o.Scheme, o.Network, o.Asset, o.PayTo, o.Amount, o.ValidUntil))
}

// Digest returns what a receipt's EIP-712 signature is over: everything but what is more than the published form.
func (r Receipt) Digest() evm.Hash {
	return evm.TypedDigest(receiptDomain, structHash(receiptType, uint64(r.Version), r.Network, r.ResourceURL, r.Payer, r.IssuedAt, r.Transaction))
}

// ChargeDigest returns what the signature of a receipt's charge is over: all members.
func (r Receipt) ChargeDigest() evm.Hash {
	return evm.TypedDigest(chargeDomain, structHash(chargeType, uint64(r.Version), r.Network, r.ResourceURL, r.Payer, r.IssuedAt, r.Transaction, r.Asset, r.Amount, r.Purchase))
}

// published returns the receipt as the published form has it.
func (r Receipt) published() Receipt {
	r.Asset, r.Amount, r.Purchase = "", "", ""
	return r
}

// MakeOffer makes the offer of one of the terms' options, until a time.
func MakeOffer(resource string, r Requirements, validUntil uint64) Offer {
	caip2, _ := canonicalNetwork(r.Network)
	return Offer{1, resource, r.Scheme, caip2, r.Asset, r.PayTo, r.Amount, validUntil}
}

// Matches reports whether the offer is that of an option: a signed offer binds nobody to another one.
func (o Offer) Matches(r Requirements) bool {
	network, _ := canonicalNetwork(r.Network)
	offered, _ := canonicalNetwork(o.Network)
	return o.Scheme == r.Scheme && offered == network && o.Amount == r.Amount && sameAddress(o.Asset, r.Asset) && sameAddress(o.PayTo, r.PayTo)
}

// SignOffer signs an offer with a key, which should be that of PayTo: otherwise nobody can tell whose word it is.
func SignOffer(ctx context.Context, key evm.Signer, o Offer, acceptIndex int) (Signed, error) {
	return signTyped(ctx, key, o.Digest(), o, &acceptIndex)
}

// SignOfferJWS is SignOffer in the form jws. The kid names the key; see [PKH] and [KeyDID].
func SignOfferJWS(ctx context.Context, key evm.Signer, kid string, o Offer, acceptIndex int) (Signed, error) {
	text, err := signJWS(ctx, key, kid, o)
	return Signed{Format: FormatJWS, AcceptIndex: &acceptIndex, Signature: text}, err
}

func signTyped(ctx context.Context, key evm.Signer, digest evm.Hash, payload any, acceptIndex *int) (Signed, error) {
	raw, err := encodePlain(payload)
	if err != nil {
		return Signed{}, err
	}
	signature, err := key.Sign(ctx, digest)
	if err != nil {
		return Signed{}, err
	}
	return Signed{FormatEIP712, acceptIndex, raw, signature.String()}, nil
}

// offerReceiptInfo is the extension's info: offers in terms, a receipt in a receipt header.
type offerReceiptInfo struct {
	Offers  []Signed `json:"offers,omitempty"`
	Receipt *Signed  `json:"receipt,omitempty"`
	Charge  *Signed  `json:"charge,omitempty"` // ours
}

// DeclareOffers returns the entry for terms.
func DeclareOffers(offers []Signed) json.RawMessage {
	return declare(offerReceiptInfo{Offers: offers}, `{"type":"object","required":["offers"]}`)
}

// SignReceipt signs a receipt with a key and returns the entry for a receipt header's extensions. With an amount, a charge
// stands beside it.
func SignReceipt(ctx context.Context, key evm.Signer, r Receipt) (json.RawMessage, error) {
	receipt, err := signTyped(ctx, key, r.Digest(), r.published(), nil)
	if err != nil {
		return nil, err
	}
	info := offerReceiptInfo{Receipt: &receipt}
	if r.Amount != "" {
		charge, err := signTyped(ctx, key, r.ChargeDigest(), r, nil)
		if err != nil {
			return nil, err
		}
		info.Charge = &charge
	}
	return declare(info, receiptSchema), nil
}

const receiptSchema = `{"type":"object","required":["receipt"]}`

// SignReceiptJWS is SignReceipt in the form jws, which holds the amount itself.
func SignReceiptJWS(ctx context.Context, key evm.Signer, kid string, r Receipt) (json.RawMessage, error) {
	text, err := signJWS(ctx, key, kid, receiptJWS(r))
	if err != nil {
		return nil, err
	}
	return declare(offerReceiptInfo{Receipt: &Signed{Format: FormatJWS, Signature: text}}, receiptSchema), nil
}

// Keys finds the account behind a kid that does not say it itself, such as one of did:web. It may be nil.
type Keys func(kid string) (evm.Address, bool)

// offersMax is how many signed offers of one 402 are looked at: each costs a recovery.
const offersMax = 32

// errUnchecked is a signature of which nothing can be said here: of another form or algorithm, or by a key that is not
// known. It counts as none.
var errUnchecked = errors.New("cannot be checked here")

// SignedOffer finds the offer that terms have signed for one of their options, and returns it with who signed. Its absence
// is no error, and neither is one that cannot be checked here; a signature that does not hold is offer_invalid. Whether
// the signer speaks for the resource is left to the caller: it does if it is payTo.
func (p PaymentRequired) SignedOffer(chosen Requirements, keys Keys) (o Offer, signer evm.Address, found bool, err error) {
	var info offerReceiptInfo
	if there, err := readExtension(p.Extensions, OfferReceiptKey, &info); !there || err != nil {
		if err != nil {
			err = Errorf("offer_invalid", "extension %s: %w", OfferReceiptKey, err)
		}
		return o, signer, false, err
	}
	for _, s := range info.Offers[:min(len(info.Offers), offersMax)] {
		o = Offer{}
		if signer, err = s.open(&o, func() evm.Hash { return o.Digest() }, keys); errors.Is(err, errUnchecked) {
			continue
		} else if err != nil {
			return Offer{}, evm.Address{}, false, Errorf("offer_invalid", "signed offer: %w", err)
		}
		if o.Matches(chosen) && (p.Resource.URL == "" || o.ResourceURL == p.Resource.URL) {
			return o, signer, true, nil
		}
	}
	return Offer{}, evm.Address{}, false, nil
}

// SignedReceipt returns the receipt that a receipt header carries, with who signed it; found is false without one. With a
// charge, its members are in it. The error is receipt_invalid.
func (s SettleResponse) SignedReceipt(keys Keys) (r Receipt, signer evm.Address, found bool, err error) {
	var info offerReceiptInfo
	there, err := readExtension(s.Extensions, OfferReceiptKey, &info)
	if err != nil {
		return r, signer, false, Errorf("receipt_invalid", "extension %s: %w", OfferReceiptKey, err)
	}
	if !there || info.Receipt == nil {
		return r, signer, false, nil
	}
	if signer, err = info.Receipt.open(&r, func() evm.Hash { return r.Digest() }, keys); errors.Is(err, errUnchecked) {
		return Receipt{}, evm.Address{}, false, nil
	} else if err != nil {
		return Receipt{}, evm.Address{}, false, Errorf("receipt_invalid", "signed receipt: %w", err)
	}
	if info.Receipt.Format == FormatEIP712 {
		r = r.published() // nothing else is signed
	}
	if info.Charge == nil {
		return r, signer, true, nil
	}
	var c Receipt
	by, err := info.Charge.open(&c, func() evm.Hash { return c.ChargeDigest() }, keys)
	if err != nil {
		return Receipt{}, evm.Address{}, false, Errorf("receipt_invalid", "signed charge: %w", err)
	}
	if by != signer || c.published() != r.published() {
		return Receipt{}, evm.Address{}, false, Errorf("receipt_invalid", "the charge is of another purchase than the receipt, or signed by somebody else")
	}
	return c, signer, true, nil
}

// open checks the signature and reads what was signed into v.
func (s Signed) open(v any, digest func() evm.Hash, keys Keys) (signer evm.Address, err error) {
	switch s.Format {
	case FormatEIP712:
		if isNull(s.Payload) {
			return signer, errors.New("no payload")
		}
		if err := Decode(s.Payload, v); err != nil {
			return signer, err
		}
		signature, err := evm.ParseSignature(s.Signature)
		if err != nil {
			return signer, err
		}
		if signer, err = evm.Recover(digest(), signature); err != nil {
			return signer, err
		}
	case FormatJWS:
		if !isNull(s.Payload) {
			return signer, errors.New("a payload beside the one that is signed")
		}
		signer, err = openJWS(s.Signature, v, keys)
	default:
		return signer, fmt.Errorf("format %q: %w", clip(s.Format), errUnchecked)
	}
	if err != nil {
		return evm.Address{}, err
	}
	switch x := v.(type) {
	case *Offer:
		if x.Version != 1 || x.ResourceURL == "" {
			return evm.Address{}, errors.New("not version 1")
		}
	case *Receipt:
		if x.Version != 1 || x.ResourceURL == "" || x.Payer == "" {
			return evm.Address{}, errors.New("not version 1")
		}
	}
	return signer, nil
}

// jwsHeader is the header of a compact JWS, in the order in which it is written.
type jwsHeader struct {
	Alg  string          `json:"alg"`
	Kid  string          `json:"kid"`
	Crit json.RawMessage `json:"crit,omitempty"`
}

// signJWS makes a compact JWS over the canonical JSON of a payload.
func signJWS(ctx context.Context, key evm.Signer, kid string, payload any) (string, error) {
	header, err := encodePlain(jwsHeader{Alg: "ES256K", Kid: kid})
	if err != nil {
		return "", err
	}
	body, err := canonicalJSON(payload)
	if err != nil {
		return "", err
	}
	input := base64.RawURLEncoding.EncodeToString(header) + "." + base64.RawURLEncoding.EncodeToString(body)
	signature, err := key.Sign(ctx, sha256.Sum256([]byte(input)))
	if err != nil {
		return "", err
	}
	return input + "." + base64.RawURLEncoding.EncodeToString(signature[:64]), nil
}

// openJWS checks a compact JWS against the key that its kid names, and reads its payload.
func openJWS(text string, v any, keys Keys) (signer evm.Address, err error) {
	parts := strings.Split(text, ".")
	if len(parts) != 3 {
		return signer, errors.New("not a compact JWS")
	}
	var raw [3][]byte
	for i, p := range parts {
		if raw[i], err = base64.RawURLEncoding.Strict().DecodeString(p); err != nil || strings.ContainsAny(p, "\r\n") {
			return signer, errors.New("JWS: not base64url")
		}
	}
	var h jwsHeader
	if err := Decode(raw[0], &h); err != nil {
		return signer, fmt.Errorf("JWS header: %w", err)
	}
	if h.Alg == "" || strings.EqualFold(h.Alg, "none") {
		return signer, errors.New("JWS without a signature")
	}
	if h.Alg != "ES256K" || h.Crit != nil {
		return signer, fmt.Errorf("JWS by %q: %w", clip(h.Alg), errUnchecked)
	}
	named, ok := accountOf(h.Kid)
	if !ok && keys != nil {
		named, ok = keys(h.Kid)
	}
	if !ok {
		return signer, fmt.Errorf("JWS: key of %q: %w", clip(h.Kid), errUnchecked)
	}
	if len(raw[2]) != 64 {
		return signer, errors.New("JWS: the signature is not 64 bytes")
	}
	digest := evm.Hash(sha256.Sum256([]byte(parts[0] + "." + parts[1])))
	var sig evm.Signature
	copy(sig[:], raw[2])
	sig[64] = 27
	sig = evm.LowS(sig)
	for sig[64] = 27; sig[64] <= 28; sig[64]++ {
		if by, err := evm.Recover(digest, sig); err == nil && by == named {
			return named, Decode(raw[1], v)
		}
	}
	return signer, fmt.Errorf("JWS: not signed by %s", named)
}

// canonicalJSON encodes a value as what is signed in the form jws: sorted members, no spaces, and the escapes of the
// published packages, which are those of control characters, quotes and backslashes only.
func canonicalJSON(v any) ([]byte, error) {
	raw, err := encodePlain(v)
	if err != nil {
		return nil, err
	}
	var tree any
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	if err := dec.Decode(&tree); err != nil {
		return nil, err
	}
	return appendCanonical(nil, tree), nil
}

func appendCanonical(b []byte, v any) []byte {
	switch x := v.(type) {
	case map[string]any:
		b = append(b, '{')
		for i, name := range slices.Sorted(maps.Keys(x)) {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendCanonical(append(appendCanonical(b, name), ':'), x[name])
		}
		return append(b, '}')
	case []any:
		b = append(b, '[')
		for i, e := range x {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendCanonical(b, e)
		}
		return append(b, ']')
	case string:
		b = append(b, '"')
		for i := range len(x) {
			switch c := x[i]; {
			case c < ' ':
				b = fmt.Appendf(b, `\u%04x`, c)
			case c == '"' || c == '\\':
				b = append(b, '\\', c)
			default:
				b = append(b, c)
			}
		}
		return append(b, '"')
	case json.Number:
		return append(b, x...)
	case bool:
		return strconv.AppendBool(b, x)
	}
	return append(b, "null"...)
}

// PKH returns the DID of an account: did:pkh:eip155:8453:0x….
func PKH(chainID uint64, account evm.Address) string {
	return fmt.Sprintf("did:pkh:eip155:%d:%s", chainID, account)
}

// secp256k1Prefix is the multicodec of a compressed secp256k1 key, as two bytes of varint.
var secp256k1Prefix = [2]byte{0xe7, 0x01}

// KeyDID returns the DID of a public key, with itself as the key: did:key:z…#z…. The published packages find the key of
// this one, but not of a [PKH].
func KeyDID(key evm.PublicKey) string {
	z := "z" + base58(append(secp256k1Prefix[:], key[:]...))
	return "did:key:" + z + "#" + z
}

// accountOf returns the account of a kid that says it itself: did:pkh on an EVM network, or did:key of a secp256k1 key.
func accountOf(kid string) (evm.Address, bool) {
	did, _, _ := strings.Cut(kid, "#")
	if rest, ok := strings.CutPrefix(did, "did:pkh:eip155:"); ok {
		chain, account, ok := strings.Cut(rest, ":")
		a, err := evm.ParseAddress(account)
		return a, ok && isAmount(chain) && err == nil
	}
	if rest, ok := strings.CutPrefix(did, "did:key:z"); ok {
		var key evm.PublicKey
		b, ok := unbase58(rest)
		if !ok || len(b) != len(secp256k1Prefix)+len(key) || [2]byte(b[:2]) != secp256k1Prefix {
			return evm.Address{}, false
		}
		copy(key[:], b[2:])
		a, err := key.Address()
		return a, err == nil
	}
	return evm.Address{}, false
}

const base58Digits = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"

// base58 encodes bytes with bitcoin's alphabet.
func base58(b []byte) string {
	n, digit, radix := new(big.Int).SetBytes(b), new(big.Int), big.NewInt(58)
	var out []byte
	for n.Sign() > 0 {
		n.DivMod(n, radix, digit)
		out = append(out, base58Digits[digit.Int64()])
	}
	for _, c := range b {
		if c != 0 {
			break
		}
		out = append(out, base58Digits[0])
	}
	for i, j := 0, len(out)-1; i < j; i, j = i+1, j-1 {
		out[i], out[j] = out[j], out[i]
	}
	return string(out)
}

// unbase58 decodes at most 64 digits, which is more than a key has.
func unbase58(s string) ([]byte, bool) {
	if len(s) > 64 {
		return nil, false
	}
	n, radix := new(big.Int), big.NewInt(58)
	for i := range len(s) {
		d := strings.IndexByte(base58Digits, s[i])
		if d < 0 {
			return nil, false
		}
		n.Add(n.Mul(n, radix), big.NewInt(int64(d)))
	}
	zeros := len(s) - len(strings.TrimLeft(s, base58Digits[:1]))
	return append(make([]byte, zeros), n.Bytes()...), true
}

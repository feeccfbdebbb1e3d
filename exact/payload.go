package exact

import (
	"bytes"
	"cmp"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/internal/jsonobject"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/x402"
)

// Extensions by which a payer asks the facilitator to pay for the allowance that Permit2 needs.
const (
	PermitExtension   = "eip2612GasSponsoring"
	ApprovalExtension = "erc20ApprovalGasSponsoring"
)

const (
	// payloadBytesMax bounds what Read reads; a payment header may have 8 KiB.
	payloadBytesMax = 16 << 10
	// signatureBytesMax bounds a signature. A contract account's may carry several, or the account's own deployment.
	signatureBytesMax = 4 << 10
)

// The payload on the wire, members in the order of the published packages.
type (
	transferPayload struct {
		Authorization transferJSON `json:"authorization"`
		Signature     string       `json:"signature"`
	}
	transferJSON struct {
		From        string `json:"from"`
		To          string `json:"to"`
		Value       string `json:"value"`
		ValidAfter  string `json:"validAfter"`
		ValidBefore string `json:"validBefore"`
		Nonce       string `json:"nonce"`
		Spender     string `json:"spender,omitempty"`
	}
	permit2Payload struct {
		Signature     string      `json:"signature"`
		Authorization permit2JSON `json:"permit2Authorization"`
	}
	permit2JSON struct {
		From      string        `json:"from"`
		Permitted permittedJSON `json:"permitted"`
		Spender   string        `json:"spender"`
		Nonce     string        `json:"nonce"`
		Deadline  string        `json:"deadline"`
		Witness   witnessJSON   `json:"witness"`
	}
	permittedJSON struct {
		Token  string `json:"token"`
		Amount string `json:"amount"`
	}
	witnessJSON struct {
		To          string `json:"to"`
		Facilitator string `json:"facilitator,omitempty"`
		ValidAfter  string `json:"validAfter"`
	}
)

// Payload returns the scheme's object of an x402 payment, byte for byte as the published clients write it.
func (a Authorization) Payload() (json.RawMessage, error) {
	signature := "0x" + hex.EncodeToString(a.Signature)
	after, before := strconv.FormatUint(a.ValidAfter, 10), strconv.FormatUint(a.ValidBefore, 10)
	switch a.Method {
	case EIP3009, Legacy:
		t := transferJSON{From: a.From.String(), To: a.To.String(), Value: a.Amount.String(), ValidAfter: after, ValidBefore: before, Nonce: a.Nonce.String()}
		if a.Method == Legacy {
			t.Spender = a.Spender.String()
		}
		return json.Marshal(transferPayload{t, signature})
	case Permit2:
		p := permit2JSON{
			From: a.From.String(), Permitted: permittedJSON{a.Asset.String(), a.Amount.String()}, Spender: a.Spender.String(),
			Nonce: number(a.Nonce).String(), Deadline: before, Witness: witnessJSON{To: a.To.String(), ValidAfter: after},
		}
		if a.Scheme == UptoScheme {
			p.Witness.Facilitator = a.Facilitator.String()
		}
		return json.Marshal(permit2Payload{signature, p})
	}
	return nil, fmt.Errorf("payload of an authorization by %q: no such method", string(a.Method))
}

// number reads a nonce as Permit2 does.
func number(h evm.Hash) money.Amount {
	a, _ := money.AmountFromBytes(h[:]) // 32 bytes always fit
	return a
}

// Read reads a payment of one of this package's schemes against the terms that it is to meet: the token's domain, and
// for EIP-3009 the token itself, stand there only. What it returns is what somebody says. Errors are [*x402.Error]:
// scheme, signing domain and network of the two have to agree, in that order, before a payload of theirs has a meaning;
// after that a member that is missing, of another type or spelled in a second way is invalid_payload.
func Read(p x402.Payment, r x402.Requirements) (Authorization, error) {
	if len(p.Payload) > payloadBytesMax {
		return Authorization{}, x402.Errorf("invalid_payload", "payload of %d bytes", len(p.Payload))
	}
	form, err := jsonobject.Parse(p.Payload, bytes.EqualFold)
	if err != nil {
		return Authorization{}, x402.Errorf("invalid_payload", "payload: %w", err)
	}
	transfer, permit, signature := value(form, "authorization"), value(form, "permit2Authorization"), value(form, "signature")
	a := Authorization{Scheme: p.Scheme, Method: EIP3009, recovered: new(atomic.Pointer[recovered])}
	switch {
	case transfer != nil && permit != nil:
		return Authorization{}, x402.Errorf("invalid_payload", "payload is of two methods at once")
	case permit != nil:
		a.Method = Permit2
	case p.Scheme == LegacyScheme:
		a.Method = Legacy
	}
	if a.ChainID, err = chainID(p.Network); err != nil && p.Network == r.Network {
		return Authorization{}, x402.Errorf("invalid_network", "payment: %w", err)
	}
	if err := a.fits(r); err != nil {
		return Authorization{}, err
	}
	switch {
	case a.Scheme == UptoScheme && a.Method != Permit2, a.Scheme == LegacyScheme && a.Method != Legacy:
		return Authorization{}, x402.Errorf("unsupported_payload_type", "payload is not one of scheme %s", a.Scheme)
	case transfer == nil && permit == nil:
		return Authorization{}, x402.Errorf("unsupported_payload_type", "payload has neither authorization nor permit2Authorization")
	}
	a.Name, a.Version = domainOf(r, a.Method)
	if a.Asset, err = evm.ParseAddress(r.Asset); err != nil {
		return Authorization{}, x402.Errorf("invalid_payment_requirements", "requirements: asset: %w", err)
	}
	if a.Method == Permit2 {
		err = a.readPermit2(permit)
	} else {
		err = a.readTransfer(transfer)
	}
	if err != nil {
		return Authorization{}, x402.Errorf("invalid_payload", "payload: %w", err)
	}
	if signature == nil {
		return Authorization{}, x402.Errorf("invalid_payload", "payload: signature is missing")
	}
	if a.Signature, err = readSignature(signature); err != nil {
		return Authorization{}, x402.Errorf(a.code().signature, "payload: %w", err)
	}
	if a.Method == Permit2 {
		a.readSponsoring(p.Extensions)
	}
	return a, nil
}

// value returns a member's value; nil for one that is missing or null.
func value(o jsonobject.Object, name string) []byte {
	if raw := o.Get(name); string(raw) != "null" {
		return raw
	}
	return nil
}

// present reports whether a member was there and not null.
func present(raw json.RawMessage) bool { return len(raw) > 0 && string(raw) != "null" }

// chainID reads the CAIP-2 name of an EVM chain, in its one spelling.
func chainID(network string) (uint64, error) {
	digits, ok := strings.CutPrefix(network, "eip155:")
	id, err := strconv.ParseUint(digits, 10, 64)
	if !ok || err != nil || id == 0 || strconv.FormatUint(id, 10) != digits {
		return 0, fmt.Errorf("network %q is no EVM chain", clip(network))
	}
	return id, nil
}

// domainOf returns the token's signing domain as terms name it. T402 has one for tokens that have none.
func domainOf(r x402.Requirements, m Method) (name, version string) {
	name, version = r.ExtraString("name"), r.ExtraString("version")
	if m == Legacy {
		name, version = cmp.Or(name, "T402LegacyTransfer"), cmp.Or(version, "1")
	}
	return name, version
}

func (a *Authorization) readTransfer(raw []byte) error {
	o, err := jsonobject.Split(raw, bytes.EqualFold)
	if err != nil {
		return fmt.Errorf("authorization: %w", err)
	}
	r := reader{}
	a.From, a.To = r.address(o, "from"), r.address(o, "to")
	a.Amount = r.number(o, "value")
	a.ValidAfter, a.ValidBefore = r.seconds(o, "validAfter"), r.seconds(o, "validBefore")
	a.Nonce = r.hash(o, "nonce")
	if a.Method == Legacy {
		a.Spender = r.address(o, "spender")
	}
	return r.err
}

func (a *Authorization) readPermit2(raw []byte) error {
	o, err := jsonobject.Split(raw, bytes.EqualFold)
	if err != nil {
		return fmt.Errorf("permit2Authorization: %w", err)
	}
	r := reader{}
	permitted, witness := r.object(o, "permitted"), r.object(o, "witness")
	a.From, a.Asset = r.address(o, "from"), r.address(permitted, "token")
	a.Amount = r.number(permitted, "amount")
	a.Spender = r.address(o, "spender")
	a.Nonce = r.number(o, "nonce").Word()
	a.ValidBefore = r.seconds(o, "deadline")
	a.To = r.address(witness, "to")
	if a.Scheme == UptoScheme {
		a.Facilitator = r.address(witness, "facilitator")
	}
	a.ValidAfter = r.seconds(witness, "validAfter")
	return r.err
}

// reader reads members and keeps the first error of several.
type reader struct{ err error }

func (r *reader) fail(name string, err error) {
	if r.err == nil {
		r.err = fmt.Errorf("%s: %w", name, err)
	}
}

func (r *reader) object(o jsonobject.Object, name string) jsonobject.Object {
	inner, err := jsonobject.Split(value(o, name), bytes.EqualFold)
	if err != nil {
		r.fail(name, err)
	}
	return inner
}

func (r *reader) text(o jsonobject.Object, name string) string {
	raw := value(o, name)
	if raw == nil {
		r.fail(name, errors.New("missing"))
		return ""
	}
	text, err := jsonobject.Unquote(raw)
	if err != nil {
		r.fail(name, err)
	}
	return string(text)
}

func (r *reader) address(o jsonobject.Object, name string) evm.Address {
	a, err := evm.ParseAddress(r.text(o, name))
	if err != nil {
		r.fail(name, err)
	}
	return a
}

func (r *reader) hash(o jsonobject.Object, name string) evm.Hash {
	text := r.text(o, name)
	if !strings.HasPrefix(text, "0x") {
		r.fail(name, errors.New("does not begin with 0x"))
		return evm.Hash{}
	}
	h, err := evm.ParseHash(text)
	if err != nil {
		r.fail(name, err)
	}
	return h
}

func (r *reader) number(o jsonobject.Object, name string) money.Amount {
	a, err := decimal(r.text(o, name))
	if err != nil {
		r.fail(name, err)
	}
	return a
}

func (r *reader) seconds(o jsonobject.Object, name string) uint64 {
	seconds, fits := r.number(o, name).Uint64()
	if !fits {
		r.fail(name, errors.New("past 64 bits"))
	}
	return seconds
}

func (r *reader) hex(o jsonobject.Object, name string) []byte {
	b, err := readHex(r.text(o, name))
	if err != nil {
		r.fail(name, err)
	}
	return b
}

// decimal reads a number in its one spelling: digits, and no zero in front of another digit.
func decimal(text string) (money.Amount, error) {
	if strings.Trim(text, "0123456789") != "" || text == "" || len(text) > 1 && text[0] == '0' {
		return money.Amount{}, fmt.Errorf("%q is no plain decimal number", clip(text))
	}
	return money.ParseAmount(text)
}

// readSignature reads hexadecimal after 0x.
func readSignature(raw []byte) ([]byte, error) {
	text, err := jsonobject.Unquote(raw)
	if err != nil {
		return nil, fmt.Errorf("signature: %w", err)
	}
	b, err := readHex(string(text))
	if err != nil {
		return nil, fmt.Errorf("signature: %w", err)
	}
	if len(b) == 0 || len(b) > signatureBytesMax {
		return nil, fmt.Errorf("signature: %d bytes", len(b))
	}
	return b, nil
}

func readHex(text string) ([]byte, error) {
	digits, ok := strings.CutPrefix(text, "0x")
	if !ok {
		return nil, errors.New("does not begin with 0x")
	}
	b, err := hex.DecodeString(digits)
	if err != nil {
		return nil, errors.New("not hexadecimal")
	}
	return b, nil
}

// sponsorJSON is the info of either extension of sponsoring.
type sponsorJSON struct {
	From              string `json:"from"`
	Asset             string `json:"asset"`
	Spender           string `json:"spender"`
	Amount            string `json:"amount"`
	Nonce             string `json:"nonce,omitempty"`
	Deadline          string `json:"deadline,omitempty"`
	Signature         string `json:"signature,omitempty"`
	SignedTransaction string `json:"signedTransaction,omitempty"`
	Version           string `json:"version"`
}

// readSponsoring takes in the extensions that a payer filled. One that it merely echoes lacks members; one that has them
// all and cannot be read is remembered for when its turn to be checked comes.
func (a *Authorization) readSponsoring(extensions map[string]json.RawMessage) {
	if o, ok := filled(extensions[PermitExtension], "nonce", "deadline", "signature"); ok {
		r := reader{}
		p := Permit{From: r.address(o, "from"), Asset: r.address(o, "asset"), Spender: r.address(o, "spender")}
		p.Amount, p.Nonce, p.Deadline = r.number(o, "amount"), r.number(o, "nonce"), r.number(o, "deadline")
		if p.Signature = r.hex(o, "signature"); len(p.Signature) != 65 {
			r.fail("signature", fmt.Errorf("%d bytes, want 65", len(p.Signature)))
		}
		if a.Permit = &p; r.err != nil {
			a.Permit, a.permitErr = nil, x402.Errorf("invalid_eip2612_extension_format", "%s: %w", PermitExtension, r.err)
		}
		return
	}
	if o, ok := filled(extensions[ApprovalExtension], "signedTransaction"); ok {
		r := reader{}
		p := Approval{From: r.address(o, "from"), Asset: r.address(o, "asset"), Spender: r.address(o, "spender")}
		p.Amount, p.Raw = r.number(o, "amount"), r.hex(o, "signedTransaction")
		if a.Approval = &p; r.err != nil {
			a.Approval, a.approvalErr = nil, x402.Errorf("invalid_erc20_approval_extension_format", "%s: %w", ApprovalExtension, r.err)
		}
	}
}

// filled returns the info of an extension that has all of its members.
func filled(raw json.RawMessage, names ...string) (jsonobject.Object, bool) {
	if len(raw) == 0 {
		return nil, false
	}
	entry, err := jsonobject.Parse(raw, bytes.EqualFold)
	if err != nil {
		return nil, false
	}
	info, err := jsonobject.Split(value(entry, "info"), bytes.EqualFold)
	if err != nil {
		return nil, false
	}
	for _, name := range append(names, "from", "asset", "spender", "amount", "version") {
		if value(info, name) == nil {
			return nil, false
		}
	}
	return info, true
}

// Extensions returns a payment's extensions with the permit or the approval of the authorization filled in where the
// terms advertise it. What the terms say stays, as they ask. The map that it is given stays as it is.
func (a Authorization) Extensions(advertised map[string]json.RawMessage) (map[string]json.RawMessage, error) {
	key, info := "", sponsorJSON{}
	switch {
	case a.Permit != nil:
		p := a.Permit
		key, info = PermitExtension, sponsorJSON{
			From: p.From.String(), Asset: p.Asset.String(), Spender: p.Spender.String(), Amount: p.Amount.String(),
			Nonce: p.Nonce.String(), Deadline: p.Deadline.String(), Signature: "0x" + hex.EncodeToString(p.Signature), Version: "1",
		}
	case a.Approval != nil:
		p := a.Approval
		key, info = ApprovalExtension, sponsorJSON{
			From: p.From.String(), Asset: p.Asset.String(), Spender: p.Spender.String(), Amount: p.Amount.String(),
			SignedTransaction: "0x" + hex.EncodeToString(p.Raw), Version: "1",
		}
	}
	raw, ok := advertised[key]
	if !ok {
		return advertised, nil
	}
	fail := func(err error) (map[string]json.RawMessage, error) {
		return nil, x402.Errorf("offer_invalid", "extension %s: %w", key, err)
	}
	var entry map[string]json.RawMessage
	if err := json.Unmarshal(raw, &entry); err != nil {
		return fail(err)
	}
	ours, err := json.Marshal(info)
	if err != nil {
		return fail(err)
	}
	if entry["info"], err = joined(entry["info"], ours); err != nil {
		return fail(err)
	}
	filled := make(map[string]json.RawMessage, len(advertised))
	for k, v := range advertised {
		filled[k] = v
	}
	if filled[key], err = json.Marshal(entry); err != nil {
		return fail(err)
	}
	return filled, nil
}

// joined appends the members of an object to those of another that has the precedence.
func joined(first, second json.RawMessage) (json.RawMessage, error) {
	if !present(first) {
		return second, nil
	}
	var have map[string]json.RawMessage
	if err := json.Unmarshal(first, &have); err != nil {
		return nil, err
	}
	out := bytes.Clone(bytes.TrimSuffix(bytes.TrimSpace(first), []byte("}")))
	empty := len(have) == 0
	dec := json.NewDecoder(bytes.NewReader(second))
	if _, err := dec.Token(); err != nil {
		return nil, err
	}
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			return nil, err
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return nil, err
		}
		if _, ok := have[name.(string)]; ok {
			continue
		}
		if !empty {
			out = append(out, ',')
		}
		empty = false
		out = fmt.Appendf(out, "%q:%s", name, value)
	}
	return append(out, '}'), nil
}

func clip(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}

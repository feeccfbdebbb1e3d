package x402

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/money"
)

// TabBytesMax bounds the body of a question for a request id.
const TabBytesMax = 64 << 10

// DefaultTabTTL is what a tab's answer says when the question named no time.
const DefaultTabTTL = 24 * time.Hour

// TabRequest is the question for a request id that 4Mica's clients ask before they sign a guarantee: at a seller's
// extra.tabEndpoint with the terms that they answer, or at a facilitator's /tabs with payee and asset.
type TabRequest struct {
	Payer        evm.Address
	Version      int          // of the guarantee that is to be signed; 0: not said
	Payee, Asset *evm.Address // nil: not said
	Network      string       // "": not said
	TTL          time.Duration
	Terms        *Requirements // nil: not said
}

// Tab is the answer. Nothing is opened by it: tabs are of the protocol's first generation, whose clients want the members
// besides the last.
type Tab struct {
	TabID      string      `json:"tabId"`
	Payer      evm.Address `json:"userAddress"`
	Payee      evm.Address `json:"recipientAddress"`
	Asset      evm.Address `json:"assetAddress"`
	Start      int64       `json:"startTimestamp"` // unix seconds
	TTLSeconds int64       `json:"ttlSeconds"`
	NextReqID  string      `json:"nextReqId"`
}

// Tab answers the question with an id of 256 random bits. Such an id does not repeat, for any payer, payee and asset, on any
// node and after any restart, though nobody writes it down.
func (q TabRequest) Tab(payee, asset evm.Address, now time.Time) (Tab, error) {
	var id [32]byte
	_, _ = rand.Read(id[:]) // never fails
	number, err := money.AmountFromBytes(id[:])
	if err != nil {
		return Tab{}, err
	}
	return Tab{number.Hex(), q.Payer, payee, asset, now.Unix(), int64(q.TTL / time.Second), number.Hex()}, nil
}

// ReadTabRequest reads the question: members in camel or snake case, the asset as assetAddress or erc20Token, the version as
// guaranteeVersion or x402Version. What is said twice has to be the same. Errors are *Error with the codes body_too_large
// and malformed_request.
func ReadTabRequest(body io.Reader) (q TabRequest, refusal *Error) {
	b, err := io.ReadAll(io.LimitReader(body, TabBytesMax+1))
	if err == nil && len(b) > TabBytesMax {
		return q, Errorf("body_too_large", "question is larger than %d bytes", TabBytesMax)
	}
	var m tabMembers
	if err == nil {
		err = Decode(b, &m)
	}
	if err == nil {
		q, err = m.read()
	}
	if err != nil {
		return TabRequest{}, Errorf("malformed_request", "question for a request id: %w", err).
			WithHint("POST userAddress with paymentRequirements, or with recipientAddress")
	}
	return q, nil
}

type tabMembers map[string]json.RawMessage

func (m tabMembers) read() (q TabRequest, err error) {
	var payer *evm.Address
	if payer, err = m.address("userAddress", "user_address"); err != nil {
		return q, err
	}
	if payer == nil {
		return q, errors.New("userAddress is missing")
	}
	q = TabRequest{Payer: *payer, TTL: DefaultTabTTL}
	if q.Payee, err = m.address("recipientAddress", "recipient_address"); err != nil {
		return q, err
	}
	if q.Asset, err = m.address("assetAddress", "asset_address", "erc20Token", "erc20_token"); err != nil {
		return q, err
	}
	version, err := m.number(1, 2, "guaranteeVersion", "guarantee_version", "x402Version", "x402_version")
	if err != nil {
		return q, err
	}
	q.Version = int(version)
	ttl, err := m.number(1, 1<<32, "ttlSeconds", "ttl_seconds")
	if err != nil {
		return q, err
	}
	if ttl != 0 {
		q.TTL = time.Duration(ttl) * time.Second
	}
	if raw := m["network"]; !isNull(raw) {
		if err := json.Unmarshal(raw, &q.Network); err != nil {
			return q, fmt.Errorf("network: %w", err)
		}
		q.Network, _ = canonicalNetwork(q.Network)
	}
	for _, name := range []string{"paymentRequirements", "payment_requirements"} {
		if raw := m[name]; !isNull(raw) {
			q.Terms = new(Requirements)
			if err := q.Terms.UnmarshalJSON(raw); err != nil {
				return q, fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	return q, nil
}

// address reads a member that may have several names; nil without one.
func (m tabMembers) address(names ...string) (found *evm.Address, err error) {
	for _, name := range names {
		raw := m[name]
		if isNull(raw) {
			continue
		}
		var text string
		if err := json.Unmarshal(raw, &text); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		a, err := evm.ParseAddress(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if found != nil && *found != a {
			return nil, fmt.Errorf("%s and %s differ", names[0], name)
		}
		found = &a
	}
	return found, nil
}

// number reads a member that may have several names, as a number or as text, "v" before it or not; 0 without one.
func (m tabMembers) number(least, most uint64, names ...string) (found uint64, err error) {
	for _, name := range names {
		raw := m[name]
		if isNull(raw) {
			continue
		}
		text := strings.TrimLeft(string(bytes.Trim(raw, `"`)), "vV")
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil || n < least || n > most {
			return 0, fmt.Errorf("%s %s: between %d and %d", name, clip(string(raw)), least, most)
		}
		if found != 0 && found != n {
			return 0, fmt.Errorf("%s and %s differ", names[0], name)
		}
		found = n
	}
	return found, nil
}

package api

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/farthing402/farthing/clearing"
	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/login"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/x402"
)

type suspensionAnswer struct {
	User      evm.Address `json:"user_address"`
	Suspended bool        `json:"suspended"`
	UpdatedAt int64       `json:"updated_at"` // unix seconds
}

func (h *handler) suspend(r *http.Request) (any, error) {
	address, err := evm.ParseAddress(r.PathValue("user"))
	if err != nil {
		return nil, x402.Errorf("malformed_request", "user: %w", err)
	}
	var q struct {
		Suspended *bool `json:"suspended"`
	}
	if err := readJSON(r, &q); err != nil {
		return nil, err
	}
	if q.Suspended == nil {
		return nil, x402.Errorf("malformed_request", "suspended is missing: true or false")
	}
	w, err := h.House.ChangeWallet(r.Context(), address, h.Now(), func(w *clearing.Wallet) error {
		switch {
		case !*q.Suspended:
			w.Status = clearing.WalletActive
		case w.Status == clearing.WalletActive:
			w.Status = clearing.WalletSuspended
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	h.Log.Info("suspension changed", "user", address, "suspended", *q.Suspended, "by", callerOf(r).name())
	return suspensionAnswer{address, w.Status != clearing.WalletActive, w.UpdatedAt / 1000}, nil
}

// name is who did something, for the log.
func (c caller) name() string {
	if c.key != nil {
		return "key " + c.key.ID
	}
	return c.address.String()
}

// keyAnswer is an API key; its text is told once, when it is made.
type keyAnswer struct {
	ID        string   `json:"id"`
	Name      string   `json:"name"`
	Scopes    []string `json:"scopes"`
	CreatedAt string   `json:"created_at"`
	RevokedAt *string  `json:"revoked_at"`
	Key       string   `json:"api_key,omitempty"`
}

func keyOf(k login.Key) keyAnswer {
	a := keyAnswer{ID: k.ID, Name: k.Name, Scopes: k.Scopes, CreatedAt: k.Created.Format(time.RFC3339)}
	if !k.Revoked.IsZero() {
		at := k.Revoked.Format(time.RFC3339)
		a.RevokedAt = &at
	}
	return a
}

func (h *handler) makeKey(r *http.Request) (any, error) {
	var q struct {
		Name   string   `json:"name"`
		Scopes []string `json:"scopes"`
	}
	if err := readJSON(r, &q); err != nil {
		return nil, err
	}
	// A key makes no key that may do more than itself.
	by := callerOf(r)
	for _, scope := range q.Scopes {
		if !by.holds(scope) && by.key != nil {
			return nil, x402.Errorf("forbidden", "missing scope %s", clip(scope))
		}
	}
	k, text, err := h.Login.NewKey(r.Context(), q.Name, q.Scopes, h.Now())
	if err != nil {
		return nil, err
	}
	h.Log.Info("API key made", "id", k.ID, "scopes", k.Scopes, "by", by.name())
	a := keyOf(k)
	a.Key = text
	return a, nil
}

func (h *handler) keys(r *http.Request) (any, error) {
	list, err := h.Login.Keys(r.Context())
	if err != nil {
		return nil, err
	}
	out := make([]keyAnswer, len(list))
	for i, k := range list {
		out[i] = keyOf(k)
	}
	return out, nil
}

func (h *handler) revokeKey(r *http.Request) (any, error) {
	k, err := h.Login.RevokeKey(r.Context(), r.PathValue("id"), h.Now())
	if err != nil {
		return nil, err
	}
	h.Log.Info("API key revoked", "id", k.ID, "by", callerOf(r).name())
	return keyOf(k), nil
}

// memberAnswer is what the operator says of a wallet.
type memberAnswer struct {
	Address   evm.Address           `json:"address"`
	Name      string                `json:"name"`
	Contact   string                `json:"contact"`
	Role      string                `json:"role"`
	Scopes    []string              `json:"scopes"`
	Status    clearing.WalletStatus `json:"status"`
	Member    bool                  `json:"member"`
	Limit     *money.Amount         `json:"limit_per_cycle"`
	UpdatedAt int64                 `json:"updated_at"` // unix seconds
}

func (h *handler) memberOf(w clearing.Wallet) memberAnswer {
	h.complete(&w)
	a := memberAnswer{w.Address, w.Name, w.Contact, w.Role, w.Scopes, w.Status, w.Member, nil, w.UpdatedAt / 1000}
	if w.Limited {
		a.Limit = &w.Limit
	}
	return a
}

func (h *handler) members(r *http.Request) (any, error) {
	limit, err := limitOf(r, 100, clearing.WalletsMax)
	if err != nil {
		return nil, err
	}
	var after evm.Address
	if text := r.URL.Query().Get("cursor"); text != "" {
		if after, err = evm.ParseAddress(text); err != nil {
			return nil, x402.Errorf("malformed_request", "cursor: %w", err)
		}
	}
	list, err := h.House.Wallets(r.Context(), after, limit)
	if err != nil {
		return nil, err
	}
	out := make([]memberAnswer, len(list))
	for i, w := range list {
		out[i] = h.memberOf(w)
	}
	page := map[string]any{"members": out, "next_cursor": nil}
	if len(list) == limit {
		page["next_cursor"] = list[limit-1].Address
	}
	return page, nil
}

func (h *handler) member(r *http.Request) (any, error) {
	address, err := evm.ParseAddress(r.PathValue("address"))
	if err != nil {
		return nil, x402.Errorf("malformed_request", "address: %w", err)
	}
	w, found, err := h.House.Wallet(r.Context(), address)
	if err == nil && !found {
		err = x402.Errorf("not_found", "nothing is said of %s", address)
	}
	if err != nil {
		return nil, err
	}
	return h.memberOf(w), nil
}

// memberText bounds what an operator writes about somebody.
const memberText = 200

// putMember changes the members of the request that are there, and leaves the others as they are.
func (h *handler) putMember(r *http.Request) (any, error) {
	address, err := evm.ParseAddress(r.PathValue("address"))
	if err != nil {
		return nil, x402.Errorf("malformed_request", "address: %w", err)
	}
	var q struct {
		Name, Contact, Role *string
		Scopes              *[]string
		Status              *clearing.WalletStatus
		Member              *bool
		Limit               json.RawMessage `json:"limit_per_cycle"`
	}
	if err := readJSON(r, &q); err != nil {
		return nil, err
	}
	limit, limited, err := memberLimit(q.Limit)
	if err != nil {
		return nil, err
	}
	switch {
	case q.Name != nil && len(*q.Name) > memberText, q.Contact != nil && len(*q.Contact) > memberText:
		return nil, x402.Errorf("malformed_request", "name and contact have at most %d bytes", memberText)
	case q.Role != nil && !slices.Contains(Roles, *q.Role):
		return nil, x402.Errorf("malformed_request", "role %q: there are %s", clip(*q.Role), strings.Join(Roles, ", "))
	case q.Status != nil && *q.Status != clearing.WalletActive && *q.Status != clearing.WalletSuspended && *q.Status != clearing.WalletRevoked:
		return nil, x402.Errorf("malformed_request", "status %q: there are active, suspended, revoked", clip(string(*q.Status)))
	case address.IsZero():
		return nil, x402.Errorf("malformed_request", "the zero address is nobody")
	}
	if q.Scopes != nil {
		for _, s := range *q.Scopes {
			if !slices.Contains(Scopes, s) {
				return nil, x402.Errorf("malformed_request", "scope %q: there are %s", clip(s), strings.Join(Scopes, ", "))
			}
		}
	}
	// Only an admin makes admins: a key that may manage members is no way around.
	if q.Role != nil && *q.Role == RoleAdmin && callerOf(r).key != nil {
		return nil, x402.Errorf("forbidden", "an API key makes nobody an admin")
	}
	w, err := h.House.ChangeWallet(r.Context(), address, h.Now(), func(w *clearing.Wallet) error {
		set(&w.Name, q.Name)
		set(&w.Contact, q.Contact)
		set(&w.Role, q.Role)
		set(&w.Scopes, q.Scopes)
		set(&w.Status, q.Status)
		set(&w.Member, q.Member)
		if q.Limit != nil {
			w.Limit, w.Limited = limit, limited
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	h.Log.Info("member changed", "address", address, "member", w.Member, "role", w.Role, "status", w.Status, "by", callerOf(r).name())
	return h.memberOf(w), nil
}

func set[T any](to *T, v *T) {
	if v != nil {
		*to = *v
	}
}

// memberLimit reads a limit: an amount, or null for none.
func memberLimit(raw json.RawMessage) (limit money.Amount, limited bool, err error) {
	if raw == nil || string(raw) == "null" {
		return limit, false, nil
	}
	if err := json.Unmarshal(raw, &limit); err != nil {
		return limit, false, x402.Errorf("malformed_request", "limit_per_cycle: %w", err)
	}
	return limit, true, nil
}

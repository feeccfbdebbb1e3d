package api

import (
	"encoding/hex"
	"encoding/json"
	"net/http"
	"strings"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/login"
	"github.com/farthing402/farthing/x402"
)

// siweAnswer is spelled in camel case, unlike all else: so does 4Mica's core.
type siweAnswer struct {
	Domain     string `json:"domain"`
	URI        string `json:"uri"`
	ChainID    uint64 `json:"chainId"`
	Statement  string `json:"statement"`
	Expiration string `json:"expiration"`
	IssuedAt   string `json:"issuedAt"`
}

type nonceAnswer struct {
	Nonce string     `json:"nonce"`
	SIWE  siweAnswer `json:"siwe"`
}

func (h *handler) nonce(r *http.Request) (any, error) {
	var q struct {
		Address *evm.Address `json:"address"`
	}
	if err := readJSON(r, &q); err != nil {
		return nil, err
	}
	if q.Address == nil {
		return nil, x402.Errorf("malformed_request", "address is missing")
	}
	c := h.Login.Nonce(*q.Address, h.Now())
	return nonceAnswer{c.Nonce, siweAnswer{c.Domain, c.URI, c.ChainID, c.Statement, c.Expiration.Format(time.RFC3339), c.IssuedAt.Format(time.RFC3339)}}, nil
}

type tokensIssued struct {
	Access    string `json:"access_token"`
	Refresh   string `json:"refresh_token"`
	ExpiresIn int64  `json:"expires_in"` // seconds
}

func issued(t login.Tokens, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	return tokensIssued{t.Access, t.Refresh, int64(t.ExpiresIn / time.Second)}, nil
}

func (h *handler) verifyLogin(r *http.Request) (any, error) {
	var q struct {
		Address   *evm.Address `json:"address"`
		Message   string       `json:"message"`
		Signature string       `json:"signature"`
	}
	if err := readJSON(r, &q); err != nil {
		return nil, err
	}
	if q.Address == nil {
		return nil, x402.Errorf("malformed_request", "address is missing")
	}
	signature, err := hex.DecodeString(strings.TrimPrefix(strings.TrimPrefix(q.Signature, "0x"), "0X"))
	if err != nil || len(signature) == 0 || len(signature) > itemBytesMax {
		return nil, x402.Errorf("login_signature_invalid", "signature is not between 1 and %d bytes in hexadecimal digits", itemBytesMax)
	}
	if len(signature) == 65 && signature[64] < 2 {
		signature[64] += 27 // as some wallets write it
	}
	return issued(h.Login.Verify(r.Context(), *q.Address, q.Message, signature, h.Now()))
}

type refreshRequest struct {
	Token string `json:"refresh_token"`
}

func (h *handler) refresh(r *http.Request) (any, error) {
	var q refreshRequest
	if err := readJSON(r, &q); err != nil {
		return nil, err
	}
	return issued(h.Login.Refresh(r.Context(), q.Token, h.Now()))
}

func (h *handler) logout(r *http.Request) (any, error) {
	var q refreshRequest
	if err := readJSON(r, &q); err != nil {
		return nil, err
	}
	ended, err := h.Login.Logout(r.Context(), q.Token, h.Now())
	if err != nil {
		return nil, err
	}
	return map[string]bool{"revoked": ended}, nil
}

// readJSON reads a body that is one JSON object into a struct; members that it does not have are ignored.
func readJSON(r *http.Request, into any) error {
	body, err := readBody(r)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(body, into); err != nil {
		return x402.Errorf("malformed_request", "body: %w", err)
	}
	return nil
}

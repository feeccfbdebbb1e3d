package login

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/x402"
)

// Defaults of [Config], those of 4Mica's core.
const (
	DefaultIssuer     = "farthing"
	DefaultAudience   = "farthing"
	DefaultStatement  = "Sign in to the clearing house."
	DefaultNonceTTL   = 5 * time.Minute
	DefaultAccessTTL  = 15 * time.Minute
	DefaultRefreshTTL = 30 * 24 * time.Hour
)

// leeway is how far the clocks of nodes may differ.
const leeway = time.Minute

// Grant is what a login may do, as the access token says it.
type Grant struct {
	Role   string
	Scopes []string
}

// Config is what a [Service] works with. Book, Secret, Domain, URI, ChainID and Grant must be set; the zero value of each
// other member stands for its default.
type Config struct {
	Book    Book
	Secret  [32]byte // one for all nodes
	ChainID uint64
	// Domain and URI are where the clearing house is reached: wallets show them to whoever signs.
	Domain, URI, Statement          string
	Issuer, Audience                string
	NonceTTL, AccessTTL, RefreshTTL time.Duration
	Wallets                         x402.Wallets                                      // asked whether a contract signed; nil: contracts cannot sign in
	Grant                           func(context.Context, evm.Address) (Grant, error) // the error says why the address may not log in
}

// Service makes and checks logins.
type Service struct {
	Config         // as New completed it; to be read, not changed
	nonces, access []byte
}

// New makes a service.
func New(c Config) (*Service, error) {
	if c.Book == nil || c.Grant == nil || c.Secret == [32]byte{} || c.Domain == "" || c.URI == "" || c.ChainID == 0 {
		return nil, errors.New("login: book, secret, domain, URI, chain and grants are needed")
	}
	for _, d := range []struct {
		v *string
		d string
	}{{&c.Statement, DefaultStatement}, {&c.Issuer, DefaultIssuer}, {&c.Audience, DefaultAudience}} {
		if *d.v == "" {
			*d.v = d.d
		}
	}
	for _, d := range []struct {
		v *time.Duration
		d time.Duration
	}{{&c.NonceTTL, DefaultNonceTTL}, {&c.AccessTTL, DefaultAccessTTL}, {&c.RefreshTTL, DefaultRefreshTTL}} {
		if *d.v < 0 {
			return nil, errors.New("login: a negative lifetime")
		}
		if *d.v == 0 {
			*d.v = d.d
		}
	}
	if strings.ContainsFunc(c.Statement, func(r rune) bool { return r < ' ' || r == 0x7f || r == 0x85 || r == 0x2028 || r == 0x2029 }) {
		return nil, errors.New("login: a statement of more than one line, which nobody could sign")
	}
	return &Service{Config: c, nonces: derive(c.Secret, "nonce"), access: derive(c.Secret, "access")}, nil
}

// derive keeps one use of the secret apart from the other.
func derive(secret [32]byte, use string) []byte { return mac(secret[:], []byte(use)) }

func mac(key []byte, parts ...[]byte) []byte {
	h := hmac.New(sha256.New, key)
	for _, p := range parts {
		h.Write(p)
	}
	return h.Sum(nil)
}

// Challenge is what a sign-in message must say, besides the address.
type Challenge struct {
	Nonce                string
	Domain, URI          string
	ChainID              uint64
	Statement            string
	IssuedAt, Expiration time.Time
}

// A nonce is when it ends, something random, and the MAC over both and the address, in hexadecimal digits.
const (
	nonceRandom = 8
	nonceMAC    = 16
	nonceBytes  = 8 + nonceRandom + nonceMAC
)

// Nonce returns a challenge for an address. It writes nothing, so it may be asked for by anybody, as often as one likes.
func (s *Service) Nonce(address evm.Address, now time.Time) Challenge {
	now = now.UTC().Truncate(time.Second)
	ends := now.Add(s.NonceTTL)
	nonce := binary.BigEndian.AppendUint64(nil, uint64(ends.Unix()))
	nonce = append(nonce, make([]byte, nonceRandom)...)
	_, _ = rand.Read(nonce[8:]) // never fails
	nonce = append(nonce, mac(s.nonces, address[:], nonce)[:nonceMAC]...)
	return Challenge{
		Nonce: hex.EncodeToString(nonce), Domain: s.Domain, URI: s.URI, ChainID: s.ChainID, Statement: s.Statement, IssuedAt: now, Expiration: ends,
	}
}

// nonceEnds returns when a nonce of ours for an address ends.
func (s *Service) nonceEnds(text string, address evm.Address) (time.Time, bool) {
	nonce, err := hex.DecodeString(text)
	if err != nil || len(nonce) != nonceBytes || strings.ToLower(text) != text {
		return time.Time{}, false
	}
	said, sum := nonce[:8+nonceRandom], nonce[8+nonceRandom:]
	if !hmac.Equal(sum, mac(s.nonces, address[:], said)[:nonceMAC]) {
		return time.Time{}, false
	}
	return time.Unix(int64(binary.BigEndian.Uint64(said)), 0), true
}

// Tokens are what a sign-in gives.
type Tokens struct {
	Access, Refresh string
	ExpiresIn       time.Duration // of Access
}

// Verify signs an address in. The checks come in this order: message can be read (malformed_request); its address, version,
// chain, domain, URI, statement, times and nonce (login_invalid); signature (login_signature_invalid); whether the address
// may log in, as Grant says; and that the nonce was not used meanwhile.
func (s *Service) Verify(ctx context.Context, address evm.Address, message string, signature []byte, now time.Time) (Tokens, error) {
	m, err := parseMessage(message)
	if err != nil {
		return Tokens{}, x402.Errorf("malformed_request", "message: %w", err)
	}
	if err := s.check(m, address, now); err != nil {
		return Tokens{}, x402.Errorf("login_invalid", "message: %w", err)
	}
	ends, ours := s.nonceEnds(m.nonce, address)
	nonce := evm.Keccak256([]byte(m.nonce))
	used := false
	if ours {
		if err := s.Book.Read(ctx, func(tx Tx) (err error) { used, err = tx.NonceUsed(nonce); return err }); err != nil {
			return Tokens{}, err
		}
	}
	switch {
	case !ours:
		return Tokens{}, x402.Errorf("login_invalid", "nonce is not one that this clearing house gave %s", address)
	case used:
		return Tokens{}, errNonceUsed
	case now.After(ends):
		return Tokens{}, x402.Errorf("login_invalid", "nonce ended %s ago", now.Sub(ends).Round(time.Second))
	}
	if err := s.signed(ctx, address, message, signature); err != nil {
		return Tokens{}, err
	}
	grant, err := s.Grant(ctx, address)
	if err != nil {
		return Tokens{}, err
	}
	t, row, err := s.tokens(address, newFamily(), grant, now)
	if err != nil {
		return Tokens{}, err
	}
	err = s.Book.Write(ctx, func(tx Tx) error {
		if err := tx.Forget(now); err != nil {
			return err
		}
		fresh, err := tx.UseNonce(nonce, ends)
		if err == nil && !fresh {
			err = errNonceUsed
		}
		if err != nil {
			return err
		}
		return tx.AddToken(row)
	})
	if err != nil {
		return Tokens{}, err
	}
	return t, nil
}

var errNonceUsed = x402.Errorf("login_invalid", "nonce was used before")

// signed checks the signature over a message: a key's, or a contract's.
func (s *Service) signed(ctx context.Context, address evm.Address, message string, signature []byte) error {
	digest := evm.HashPersonal([]byte(message))
	if sig, err := evm.ParseSignature("0x" + hex.EncodeToString(signature)); err == nil {
		if signer, err := evm.Recover(digest, sig); err == nil && signer == address {
			return nil
		}
	}
	if s.Wallets != nil {
		valid, err := s.Wallets.ValidSignature(ctx, s.ChainID, address, digest, signature)
		if err != nil {
			return &x402.Error{Code: "chain_unreachable", Message: "whether " + address.String() + " signed could not be asked of the chain", Err: err}
		}
		if valid {
			return nil
		}
	}
	return x402.Errorf("login_signature_invalid", "message is not signed by %s", address)
}

// tokens makes an access token and a refresh token of a family, and the row that keeps the latter.
func (s *Service) tokens(address evm.Address, family evm.Hash, g Grant, now time.Time) (Tokens, Token, error) {
	var secret [32]byte
	_, _ = rand.Read(secret[:]) // never fails
	refresh := refreshPrefix + hex.EncodeToString(secret[:])
	access, err := jwt.NewWithClaims(jwt.SigningMethodHS256, claims{
		Role: g.Role, Scopes: g.Scopes, ChainID: s.ChainID,
		RegisteredClaims: jwt.RegisteredClaims{
			Subject: address.Lower(), Issuer: s.Issuer, Audience: jwt.ClaimStrings{s.Audience},
			IssuedAt: jwt.NewNumericDate(now), NotBefore: jwt.NewNumericDate(now), ExpiresAt: jwt.NewNumericDate(now.Add(s.AccessTTL)),
			ID: hex.EncodeToString(mac(secret[:], []byte("jti"))[:16]),
		},
	}).SignedString(s.access)
	if err != nil {
		return Tokens{}, Token{}, fmt.Errorf("sign access token: %w", err)
	}
	row := Token{Hash: hashText(refresh), Family: family, Address: address, Expires: now.Add(s.RefreshTTL)}
	return Tokens{Access: access, Refresh: refresh, ExpiresIn: s.AccessTTL}, row, nil
}

// claims are an access token's.
type claims struct {
	Role    string   `json:"role"`
	Scopes  []string `json:"scopes"`
	ChainID uint64   `json:"chain_id"`
	jwt.RegisteredClaims
}

const refreshPrefix = "refresh_"

func newFamily() (family evm.Hash) {
	_, _ = rand.Read(family[:]) // never fails
	return family
}

func hashText(text string) evm.Hash { return sha256.Sum256([]byte(text)) }

// Refresh takes a refresh token and returns new tokens in its place. One that was used before ends all that came from the
// same sign-in. Every refusal is token_invalid, or Grant's.
func (s *Service) Refresh(ctx context.Context, refresh string, now time.Time) (Tokens, error) {
	old := hashText(refresh)
	var row Token
	var found bool
	if err := s.Book.Read(ctx, func(tx Tx) (err error) { row, found, err = tx.Token(old); return err }); err != nil {
		return Tokens{}, err
	}
	if !found || now.After(row.Expires) {
		return Tokens{}, x402.Errorf("token_invalid", "refresh token is not known, or its time is over")
	}
	var t Tokens
	var next Token
	if !row.Revoked {
		grant, err := s.Grant(ctx, row.Address)
		if err != nil {
			return Tokens{}, err
		}
		if t, next, err = s.tokens(row.Address, row.Family, grant, now); err != nil {
			return Tokens{}, err
		}
	}
	again := false
	err := s.Book.Write(ctx, func(tx Tx) error {
		first, err := tx.RevokeToken(old)
		if again = !first; err != nil {
			return err
		}
		if again {
			return tx.RevokeFamily(row.Family)
		}
		return errors.Join(tx.Forget(now), tx.AddToken(next))
	})
	if err != nil {
		return Tokens{}, err
	}
	if again {
		return Tokens{}, x402.Errorf("token_invalid", "refresh token was used before: whatever came from that sign-in has ended").WithHint("sign in again")
	}
	return t, nil
}

// Logout ends a refresh token and all that came from the same sign-in. It reports whether the token was good until now.
func (s *Service) Logout(ctx context.Context, refresh string, now time.Time) (ended bool, err error) {
	err = s.Book.Write(ctx, func(tx Tx) error {
		row, found, err := tx.Token(hashText(refresh))
		if err != nil || !found {
			return err
		}
		if ended, err = tx.RevokeToken(row.Hash); err != nil {
			return err
		}
		ended = ended && !now.After(row.Expires)
		return tx.RevokeFamily(row.Family)
	})
	return ended, err
}

// Bearer returns whose access token it is, and the grant in it. Every refusal is token_invalid.
func (s *Service) Bearer(token string, now time.Time) (evm.Address, Grant, error) {
	var c claims
	_, err := jwt.ParseWithClaims(token, &c, func(*jwt.Token) (any, error) { return s.access, nil },
		jwt.WithValidMethods([]string{jwt.SigningMethodHS256.Alg()}), jwt.WithIssuer(s.Issuer), jwt.WithAudience(s.Audience),
		jwt.WithExpirationRequired(), jwt.WithLeeway(leeway), jwt.WithTimeFunc(func() time.Time { return now }))
	if err != nil {
		return evm.Address{}, Grant{}, x402.Errorf("token_invalid", "invalid access token: %w", reason(err))
	}
	if c.ChainID != s.ChainID {
		return evm.Address{}, Grant{}, x402.Errorf("token_invalid", "invalid chain id")
	}
	address, err := evm.ParseAddress(c.Subject)
	if err != nil {
		return evm.Address{}, Grant{}, x402.Errorf("token_invalid", "invalid access token: its subject is no address")
	}
	return address, Grant{Role: c.Role, Scopes: c.Scopes}, nil
}

// reason says why a token is refused, and nothing of what is in it.
func reason(err error) error {
	for _, known := range []error{jwt.ErrTokenExpired, jwt.ErrTokenNotValidYet, jwt.ErrTokenUsedBeforeIssued, jwt.ErrTokenInvalidIssuer, jwt.ErrTokenInvalidAudience} {
		if errors.Is(err, known) {
			return known
		}
	}
	return errors.New("it is not one of this clearing house")
}

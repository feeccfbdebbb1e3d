// Package keystore keeps keys in encrypted files: Web3 Secret Storage, version 3, as other Ethereum tools write and
// read it, and the same container for secrets that are no Ethereum key.
//
// Most callers want [Load], or [LoadOrCreate] for a development key; [SaveSecret] and [LoadSecret] hold an operator's
// BLS key.
//
// # Invariants
//
// A file is made for its owner alone (mode 0600), appears whole or not at all, and never replaces another. A file that
// somebody else may read is refused before it is opened with a passphrase. Nothing here prints, logs or puts into an
// error a secret or a passphrase.
//
// # Concurrency
//
// Every function may be called at any time by any process; of several that create one file, one wins and the others
// get [ErrExists].
package keystore

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"

	"github.com/ethereum/go-ethereum/accounts/keystore"

	"github.com/farthing402/farthing/evm"
)

// Errors on which a caller branches.
var (
	// ErrPassphrase says that the passphrase does not open the file.
	ErrPassphrase = errors.New("wrong passphrase")
	// ErrMode says that others than the owner may use the file.
	ErrMode = errors.New("file is open to others")
	// ErrExists says that there is a file already; it stays as it was.
	ErrExists = errors.New("file exists already")
	// ErrFile says that a file is not what it should be: no key file, a damaged one, or the other kind.
	ErrFile = errors.New("not a usable key file")
)

// Cost is how hard a passphrase is to try: the effort of scrypt.
type Cost int

const (
	// Standard takes 256 MiB and about a second, for every key that guards something.
	Standard Cost = iota
	// Light takes 4 MiB and a tenth of a second, for development.
	Light
)

func (c Cost) scrypt() (n, p int, err error) {
	switch c {
	case Standard:
		return keystore.StandardScryptN, keystore.StandardScryptP, nil
	case Light:
		return keystore.LightScryptN, keystore.LightScryptP, nil
	}
	return 0, 0, fmt.Errorf("scrypt cost %d is unknown", c)
}

// container is a file's JSON. Kind is empty for an Ethereum key, as in other tools' files.
type container struct {
	Kind    string              `json:"kind,omitempty"`
	Address string              `json:"address,omitempty"` // 40 digits without 0x
	Crypto  keystore.CryptoJSON `json:"crypto"`
	ID      string              `json:"id"` // a random UUID, which other tools ask for
	Version int                 `json:"version"`
}

const (
	version    = 3
	secretKind = "secret"
)

// Create makes a new key and its file. An empty passphrase is taken as it is: the file then protects by its mode only,
// which suits development keys.
func Create(path string, passphrase []byte, cost Cost) (*evm.PrivateKey, error) {
	key, err := evm.GenerateKey()
	if err != nil {
		return nil, err
	}
	if err := Import(path, key, passphrase, cost); err != nil {
		return nil, err
	}
	return key, nil
}

// Import makes the file of a key that exists.
func Import(path string, key *evm.PrivateKey, passphrase []byte, cost Cost) error {
	secret := key.Bytes()
	defer clear(secret)
	address := key.Address()
	return save(path, container{Address: hex.EncodeToString(address[:])}, secret, passphrase, cost)
}

// Load opens the file of a key.
func Load(path string, passphrase []byte) (*evm.PrivateKey, error) {
	c, err := read(path)
	if err != nil {
		return nil, err
	}
	if c.Kind != "" {
		return nil, fmt.Errorf("key file %s: holds a %s, not an Ethereum key: %w", path, clip(c.Kind), ErrFile)
	}
	secret, err := c.open(path, passphrase)
	if err != nil {
		return nil, err
	}
	defer clear(secret)
	var padded [32]byte // some tools leave out leading zeros
	defer clear(padded[:])
	if len(secret) > len(padded) {
		return nil, fmt.Errorf("key file %s: key of %d bytes: %w", path, len(secret), ErrFile)
	}
	copy(padded[len(padded)-len(secret):], secret)
	key, err := evm.NewKey(padded[:])
	if err != nil {
		return nil, fmt.Errorf("key file %s: %w: %w", path, ErrFile, err)
	}
	// The address is outside the encryption, so whoever can write the file could make its owner fund another account.
	if c.Address != "" {
		if address, err := evm.ParseAddress("0x" + trimPrefix(c.Address)); err != nil || address != key.Address() {
			return nil, fmt.Errorf("key file %s: its address is not its key's: %w", path, ErrFile)
		}
	}
	return key, nil
}

// LoadOrCreate opens the file of a key, or makes both if there is no file; created says which. A development key is
// one with an empty passphrase and [Light] cost.
func LoadOrCreate(path string, passphrase []byte, cost Cost) (key *evm.PrivateKey, created bool, err error) {
	key, err = Load(path, passphrase)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, false, err
	}
	key, err = Create(path, passphrase, cost)
	if errors.Is(err, ErrExists) { // another process was quicker
		key, err = Load(path, passphrase)
		return key, false, err
	}
	return key, err == nil, err
}

// Address returns the address that a key file says it is of, without opening it; [Load] checks that it is true. A
// caller that asks a person for the passphrase calls Address first, which finds every fault but a wrong passphrase.
func Address(path string) (evm.Address, error) {
	c, err := read(path)
	if err != nil {
		return evm.Address{}, err
	}
	if c.Kind != "" {
		return evm.Address{}, fmt.Errorf("key file %s: holds a %s, not an Ethereum key: %w", path, clip(c.Kind), ErrFile)
	}
	address, err := evm.ParseAddress("0x" + trimPrefix(c.Address))
	if err != nil {
		return evm.Address{}, fmt.Errorf("key file %s: %w: %w", path, ErrFile, err)
	}
	return address, nil
}

// SaveSecret makes an encrypted file of secret bytes that are no Ethereum key, such as an operator's BLS key.
func SaveSecret(path string, secret, passphrase []byte, cost Cost) error {
	if len(secret) == 0 || len(secret) > secretBytesMax {
		return fmt.Errorf("key file %s: a secret of %d bytes: %w", path, len(secret), ErrFile)
	}
	return save(path, container{Kind: secretKind}, secret, passphrase, cost)
}

// LoadSecret opens a file made by [SaveSecret]. It refuses an Ethereum key's, as [Load] refuses a secret's: a key must
// not serve two purposes by a slip.
func LoadSecret(path string, passphrase []byte) ([]byte, error) {
	c, err := read(path)
	if err != nil {
		return nil, err
	}
	if c.Kind != secretKind {
		return nil, fmt.Errorf("key file %s: holds an Ethereum key: %w", path, ErrFile)
	}
	return c.open(path, passphrase)
}

// secretBytesMax bounds what one file holds; a key has 32 bytes.
const secretBytesMax = 4096

func save(path string, c container, secret, passphrase []byte, cost Cost) error {
	n, p, err := cost.scrypt()
	if err != nil {
		return fmt.Errorf("key file %s: %w", path, err)
	}
	if exists(path) { // before a second of scrypt; writing decides
		return fmt.Errorf("key file %s: %w", path, ErrExists)
	}
	if c.Crypto, err = keystore.EncryptDataV3(secret, passphrase, n, p); err != nil {
		return fmt.Errorf("key file %s: encrypt: %w", path, err)
	}
	c.ID, c.Version = newUUID(), version
	text, err := json.Marshal(c)
	if err != nil {
		return fmt.Errorf("key file %s: %w", path, err)
	}
	return writeNew(path, append(text, '\n'))
}

func read(path string) (container, error) {
	text, err := readPrivate(path)
	if err != nil {
		return container{}, fmt.Errorf("key file %w", err)
	}
	var c container
	if err := json.Unmarshal(text, &c); err != nil {
		return container{}, fmt.Errorf("key file %s: not JSON of a key: %w", path, ErrFile)
	}
	if err := c.check(); err != nil {
		return container{}, fmt.Errorf("key file %s: %w: %w", path, ErrFile, err)
	}
	return c, nil
}

// check makes sure of everything that go-ethereum's decryption takes on trust: types, lengths, and that the effort
// asked for is one that a machine can spend.
func (c container) check() error {
	if c.Version != version {
		return fmt.Errorf("version %d, want %d", c.Version, version)
	}
	if iv, err := hex.DecodeString(c.Crypto.CipherParams.IV); err != nil || len(iv) != 16 {
		return errors.New("iv is not 16 bytes")
	}
	if text, err := hex.DecodeString(c.Crypto.CipherText); err != nil || len(text) == 0 || len(text) > secretBytesMax {
		return errors.New("ciphertext is not hexadecimal of a secret's length")
	}
	params := c.Crypto.KDFParams
	if _, ok := params["salt"].(string); !ok {
		return errors.New("salt is missing")
	}
	if length, ok := params["dklen"].(float64); !ok || length != 32 {
		return errors.New("dklen is not 32")
	}
	switch c.Crypto.KDF {
	case "scrypt":
		n, okN := params["n"].(float64)
		r, okR := params["r"].(float64)
		p, okP := params["p"].(float64)
		if !okN || !okR || !okP || n < 2 || r < 1 || p < 1 || n > 1<<24 || 128*n*r > 1<<30 || n*r*p > 1<<26 {
			return errors.New("scrypt's n, r and p are missing or out of bounds")
		}
	case "pbkdf2":
		iterations, ok := params["c"].(float64)
		if prf, _ := params["prf"].(string); !ok || prf != "hmac-sha256" || iterations < 1 || iterations > 1<<26 {
			return errors.New("pbkdf2's c or prf is missing or out of bounds")
		}
	default:
		return fmt.Errorf("kdf %q is unknown", clip(c.Crypto.KDF))
	}
	return nil
}

// open expects a container that check has passed.
func (c container) open(path string, passphrase []byte) ([]byte, error) {
	secret, err := keystore.DecryptDataV3(c.Crypto, string(passphrase))
	switch {
	case errors.Is(err, keystore.ErrDecrypt):
		return nil, fmt.Errorf("key file %s: %w", path, ErrPassphrase)
	case err != nil:
		return nil, fmt.Errorf("key file %s: %w: %w", path, ErrFile, err)
	}
	return secret, nil
}

// newUUID returns a random UUID, version 4.
func newUUID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

func trimPrefix(digits string) string {
	if len(digits) == 42 && digits[:2] == "0x" { // some tools write it
		return digits[2:]
	}
	return digits
}

func clip(s string) string {
	if len(s) > 40 {
		return s[:40] + "…"
	}
	return s
}

package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/term"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/evm/keystore"
)

type keyCmd struct {
	New    keyNewCmd    `cmd:"" help:"Make a new key and write it, encrypted, to a file of its own."`
	Import keyImportCmd `cmd:"" help:"Encrypt a private key read from standard input (64 hexadecimal digits)."`
	Show   keyShowCmd   `cmd:"" help:"Print a key file's address. The key itself is never printed."`
}

type keyNewCmd struct {
	File string `arg:"" optional:"" help:"Where to write it; default key.json in farthing's folder."`
}

type keyImportCmd struct {
	File string `arg:"" optional:"" help:"Where to write it; default key.json in farthing's folder."`
}

type keyShowCmd struct {
	File string `arg:"" optional:"" help:"Key file; default key.json in farthing's folder."`
}

func (c *keyNewCmd) Run(r *run) error {
	path, pass, err := r.newKeyFile(c.File)
	if err != nil {
		return err
	}
	key, err := keystore.Create(path, pass, keystore.Standard)
	if err != nil {
		return keyFault(path, err)
	}
	return r.keyMade(key.Address(), path)
}

func (c *keyImportCmd) Run(r *run) error {
	text, err := r.pasted("Private key, 64 hexadecimal digits (not shown): ")
	if err != nil {
		return fmt.Errorf("read the key from standard input: %w", err)
	}
	secret, err := hex.DecodeString(strings.TrimPrefix(strings.TrimSpace(string(text)), "0x"))
	if err != nil {
		return misuse("standard input holds no private key: want 64 hexadecimal digits").hint("farthing key import < FILE")
	}
	key, err := evm.NewKey(secret)
	if err != nil {
		return misuse("standard input holds no private key: %v", err).hint("farthing key new makes one")
	}
	path, pass, err := r.newKeyFile(c.File)
	if err != nil {
		return err
	}
	if err := keystore.Import(path, key, pass, keystore.Standard); err != nil {
		return keyFault(path, err)
	}
	return r.keyMade(key.Address(), path)
}

func (c *keyShowCmd) Run(r *run) error {
	path, err := r.keyPath(c.File)
	if err != nil {
		return err
	}
	address, err := keystore.Address(path)
	if err != nil {
		return keyFault(path, err)
	}
	return r.emit(map[string]any{"address": address, "file": path}, "%s\n", address)
}

func (r *run) keyMade(address evm.Address, path string) error {
	fmt.Fprintf(r.Err, "key of %s written to %s; keep the passphrase, nothing can replace it\n", address, path)
	return r.emit(map[string]any{"address": address, "file": path}, "%s\n", address)
}

func (r *run) keyPath(path string) (string, error) {
	if path != "" {
		return path, nil
	}
	return r.inFolder("key.json")
}

func (r *run) newKeyFile(file string) (path string, pass []byte, err error) {
	if path, err = r.keyPath(file); err != nil {
		return "", nil, err
	}
	if _, err := os.Lstat(path); err == nil {
		return "", nil, keyFault(path, keystore.ErrExists)
	}
	pass, err = r.passphrase(path, true)
	return path, pass, err
}

// signer opens the key that --key names. Development keys are made when first asked for; see devKey.
func (r *run) signer() (*evm.PrivateKey, error) {
	if r.opened != nil {
		return r.opened, nil
	}
	path, err := r.keyPath(r.cli.Key)
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil, fail("config_invalid", "no key at %s", path).hint("farthing key new, or --key FILE; with --dev one is made for you")
	}
	pass, err := r.passphrase(path, false)
	if err != nil {
		return nil, err
	}
	key, err := keystore.Load(path, pass)
	if err != nil {
		return nil, keyFault(path, err)
	}
	r.opened = key
	return key, nil
}

// passphrase comes from the file that FARTHING_PASSPHRASE_FILE names, from FARTHING_PASSPHRASE, or from a prompt on a
// terminal, where it is not echoed. A new one is asked for twice.
func (r *run) passphrase(path string, fresh bool) ([]byte, error) {
	if file, ok := r.Env("FARTHING_PASSPHRASE_FILE"); ok && file != "" {
		pass, err := keystore.ReadPassphrase(file)
		if err != nil {
			return nil, keyFault(file, err)
		}
		return pass, nil
	}
	if pass, ok := r.Env("FARTHING_PASSPHRASE"); ok {
		return []byte(pass), nil
	}
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return nil, fail("keystore_passphrase", "the passphrase of %s is not known and there is no terminal to ask on", path).
			hint("name a file with FARTHING_PASSPHRASE_FILE (mode 0600)")
	}
	defer tty.Close()
	prompt := fmt.Sprintf("Passphrase of %s: ", path)
	if fresh {
		prompt = fmt.Sprintf("New passphrase for %s: ", path)
	}
	pass, err := r.ask(tty, tty, prompt)
	if err != nil || !fresh {
		return pass, err
	}
	again, err := r.ask(tty, tty, "Once more: ")
	if err == nil && !bytes.Equal(pass, again) {
		return nil, misuse("the two passphrases differ; nothing was written")
	}
	return pass, err
}

// pasted is what standard input holds; a person at a terminal is asked for one line, which is not echoed.
func (r *run) pasted(prompt string) ([]byte, error) {
	if f, ok := r.In.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return r.ask(r.Err, f, prompt)
	}
	return io.ReadAll(io.LimitReader(r.In, 1<<10))
}

// ask reads one line from a terminal without echo, prompting on out. Ctrl-C ends it: the signal only ends the context, so the read itself
// goes on until the process ends, and the terminal is put right here.
func (r *run) ask(out io.Writer, tty *os.File, prompt string) ([]byte, error) {
	before, err := term.GetState(int(tty.Fd()))
	if err != nil {
		return nil, err
	}
	fmt.Fprint(out, prompt)
	defer fmt.Fprintln(out)
	type line struct {
		text []byte
		err  error
	}
	read := make(chan line, 1)
	go func() {
		text, err := term.ReadPassword(int(tty.Fd()))
		read <- line{text, err}
	}()
	select {
	case l := <-read:
		return l.text, l.err
	case <-r.ctx.Done():
		_ = term.Restore(int(tty.Fd()), before)
		return nil, r.ctx.Err()
	}
}

func keyFault(path string, err error) error {
	switch {
	case errors.Is(err, keystore.ErrExists):
		return misuse("%s exists; a key file is never overwritten", path).hint("give another file name")
	case errors.Is(err, keystore.ErrPassphrase):
		return fail("keystore_passphrase", "wrong passphrase for %s", path)
	case errors.Is(err, keystore.ErrMode):
		return fail("config_invalid", "%s can be read by others", path).hint("chmod 600 %s", path)
	case errors.Is(err, fs.ErrNotExist):
		return fail("config_invalid", "no file %s", path).hint("farthing key new")
	}
	return fail("config_invalid", "key file %s: %v", path, err)
}

// ownAddress is the address of [run.ownKey], without its passphrase.
func (r *run) ownAddress(role string) (evm.Address, error) {
	if r.cli.Dev {
		key, _, err := r.devKey(role)
		if err != nil {
			return evm.Address{}, err
		}
		return key.Address(), nil
	}
	path, err := r.keyPath(r.cli.Key)
	if err != nil {
		return evm.Address{}, err
	}
	address, err := keystore.Address(path)
	if err != nil {
		return evm.Address{}, keyFault(path, err)
	}
	return address, nil
}

// ownKey is the key of a person with this role: --key, or with --dev one that is made for the role.
func (r *run) ownKey(role string) (*evm.PrivateKey, error) {
	if r.cli.Dev {
		key, _, err := r.devKey(role)
		return key, err
	}
	return r.signer()
}

// loginSigner is ownKey that is opened when a login is signed, so that nobody is asked for a passphrase before it is needed.
// It is nil for who has no key.
func (r *run) loginSigner(role string) evm.Signer {
	address, err := r.ownAddress(role)
	if err != nil {
		return nil
	}
	return loginSigner{r, role, address}
}

type loginSigner struct {
	run     *run
	role    string
	address evm.Address
}

// Address implements [evm.Signer].
func (s loginSigner) Address() evm.Address { return s.address }

// Sign implements [evm.Signer].
func (s loginSigner) Sign(ctx context.Context, digest evm.Hash) (evm.Signature, error) {
	key, err := s.run.ownKey(s.role)
	if err != nil {
		return evm.Signature{}, err
	}
	return key.Sign(ctx, digest)
}

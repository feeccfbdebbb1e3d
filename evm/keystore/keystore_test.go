package keystore

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	geth "github.com/ethereum/go-ethereum/accounts/keystore"

	"github.com/farthing402/farthing/evm"
)

func wantErr(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("error is %v, want %v", err, want)
	}
}

func file(t *testing.T, text string, mode fs.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil { // whatever the umask
		t.Fatal(err)
	}
	return path
}

// files returns what is in a folder: nothing may be left behind by a write that failed.
func files(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestCreateAndLoad(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "new", "payer.json")
	passphrase := []byte("correct horse")
	key, err := Create(path, passphrase, Light)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("mode %v, %v", info.Mode(), err)
	}
	if names := files(t, filepath.Dir(path)); len(names) != 1 {
		t.Errorf("files %q", names)
	}
	loaded, err := Load(path, passphrase)
	if err != nil || loaded.Address() != key.Address() || !bytes.Equal(loaded.Bytes(), key.Bytes()) {
		t.Errorf("loaded %v, %v", loaded, err)
	}
	if address, err := Address(path); err != nil || address != key.Address() {
		t.Errorf("address %s, %v", address, err)
	}
	_, err = Load(path, []byte("correct horse "))
	wantErr(t, err, ErrPassphrase)
	_, err = LoadSecret(path, passphrase)
	wantErr(t, err, ErrFile)

	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(text, []byte(hex.EncodeToString(key.Bytes()))) || bytes.Contains(text, passphrase) {
		t.Error("the file shows what it hides")
	}
	// Other tools read it.
	other, err := geth.DecryptKey(text, string(passphrase))
	if err != nil || evm.Address(other.Address) != key.Address() {
		t.Errorf("go-ethereum reads %v, %v", other, err)
	}
	if !regexp.MustCompile(`"id":"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"`).Match(text) {
		t.Errorf("no UUID in %s", text)
	}
	// It stays, whoever writes next.
	_, err = Create(path, nil, Light)
	wantErr(t, err, ErrExists)
	wantErr(t, Import(path, key, nil, Light), ErrExists)
	wantErr(t, SaveSecret(path, []byte{1}, nil, Light), ErrExists)
	if again, err := os.ReadFile(path); err != nil || !bytes.Equal(again, text) {
		t.Errorf("the file changed, %v", err)
	}
}

// A dangling link is something too: writing through it would put a key where nobody looks.
func TestCreateOverLink(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "link")
	if err := os.Symlink(filepath.Join(dir, "elsewhere"), path); err != nil {
		t.Skip(err)
	}
	_, err := Create(path, nil, Light)
	wantErr(t, err, ErrExists)
	wantErr(t, writeNew(path, []byte("x")), ErrExists)
	if names := files(t, dir); len(names) != 1 {
		t.Errorf("files %q", names)
	}
}

func TestWriteNewOnce(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "file")
	var wg sync.WaitGroup
	results := make([]error, 8)
	for i := range results {
		wg.Go(func() { results[i] = writeNew(path, []byte{byte('0' + i)}) })
	}
	wg.Wait()
	winner := -1
	for i, err := range results {
		switch {
		case err == nil && winner < 0:
			winner = i
		case !errors.Is(err, ErrExists):
			t.Errorf("writer %d: %v", i, err)
		}
	}
	text, err := os.ReadFile(path)
	if err != nil || winner < 0 || string(text) != fmt.Sprint(winner) {
		t.Errorf("winner %d, file %q, %v", winner, text, err)
	}
	if names := files(t, filepath.Dir(path)); len(names) != 1 {
		t.Errorf("files %q", names)
	}
}

func TestWriteWhereNotAllowed(t *testing.T) {
	t.Parallel()
	blocker := file(t, "a file, not a folder", 0o600)
	err := writeNew(filepath.Join(blocker, "key"), []byte("x"))
	if err == nil || strings.Count(err.Error(), blocker) != 1 {
		t.Errorf("error is %v, want one that names the path once", err)
	}
}

func TestModeIsChecked(t *testing.T) {
	t.Parallel()
	key, err := evm.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "key")
	if err := Import(path, key, nil, Light); err != nil {
		t.Fatal(err)
	}
	for _, mode := range []fs.FileMode{0o644, 0o640, 0o604, 0o660, 0o602, 0o610, 0o777} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		for name, err := range map[string]error{
			"load":    func() error { _, err := Load(path, nil); return err }(),
			"address": func() error { _, err := Address(path); return err }(),
			"secret":  func() error { _, err := LoadSecret(path, nil); return err }(),
			"phrase":  func() error { _, err := ReadPassphrase(path); return err }(),
		} {
			if !errors.Is(err, ErrMode) || !strings.Contains(err.Error(), fmt.Sprintf("%04o", mode)) || !strings.Contains(err.Error(), "chmod 600 "+path) {
				t.Errorf("%s with %04o: %v", name, mode, err)
			}
		}
	}
	for _, mode := range []fs.FileMode{0o600, 0o400} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := Address(path); err != nil {
			t.Errorf("%04o: %v", mode, err)
		}
	}
}

func TestLoadOrCreate(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "dev")
	first, created, err := LoadOrCreate(path, nil, Light)
	if err != nil || !created {
		t.Fatalf("created %t, %v", created, err)
	}
	second, created, err := LoadOrCreate(path, nil, Light)
	if err != nil || created || second.Address() != first.Address() {
		t.Errorf("%v, created %t, %v", second, created, err)
	}
	_, created, err = LoadOrCreate(path, []byte("other"), Light)
	if created {
		t.Error("replaced")
	}
	wantErr(t, err, ErrPassphrase)
}

func TestSecret(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "operator")
	secret, passphrase := bytes.Repeat([]byte{7}, 32), []byte("p")
	if err := SaveSecret(path, secret, passphrase, Light); err != nil {
		t.Fatal(err)
	}
	if got, err := LoadSecret(path, passphrase); err != nil || !bytes.Equal(got, secret) {
		t.Errorf("loaded %d bytes, %v", len(got), err)
	}
	_, err := LoadSecret(path, nil)
	wantErr(t, err, ErrPassphrase)
	_, err = Load(path, passphrase)
	wantErr(t, err, ErrFile)
	_, err = Address(path)
	wantErr(t, err, ErrFile)
	empty := filepath.Join(t.TempDir(), "empty")
	wantErr(t, SaveSecret(empty, nil, passphrase, Light), ErrFile)
	wantErr(t, SaveSecret(empty, make([]byte, secretBytesMax+1), passphrase, Light), ErrFile)
}

func TestCost(t *testing.T) {
	t.Parallel()
	var zero Cost
	if n, p, err := zero.scrypt(); n != 1<<18 || p != 1 || err != nil {
		t.Errorf("the zero cost is n %d, p %d, %v", n, p, err)
	}
	if n, p, err := Light.scrypt(); n != 1<<12 || p != 6 || err != nil {
		t.Errorf("light is n %d, p %d, %v", n, p, err)
	}
	path := filepath.Join(t.TempDir(), "key")
	if _, err := Create(path, nil, Cost(7)); err == nil || exists(path) {
		t.Errorf("an unknown cost is taken, %v", err)
	}
}

// The examples of the Web3 Secret Storage definition.
const (
	definitionScrypt = `{"crypto":{"cipher":"aes-128-ctr","cipherparams":{"iv":"83dbcc02d8ccb40e466191a123791e0e"},"ciphertext":"d172bf743a674da9cdad04534d56926ef8358534d458fffccd4e6ad2fbde479c","kdf":"scrypt","kdfparams":{"dklen":32,"n":262144,"r":1,"p":8,"salt":"ab0c7876052600dd703518d6fc3fe8984592145b591fc8fb5c6d43190334ba19"},"mac":"2103ac29920d71da29f15d75b4a16dbe95cfd7ff8faea1056c33131d846e3097"},"id":"3198bc9c-6672-5ab3-d995-4942343ae5b6","version":3}`
	definitionPBKDF2 = `{"crypto":{"cipher":"aes-128-ctr","cipherparams":{"iv":"6087dab2f9fdbbfaddc31a909735c1e6"},"ciphertext":"5318b4d5bcd28de64ee5559e671353e16f075ecae9f99c7a79a38af5f869aa46","kdf":"pbkdf2","kdfparams":{"c":262144,"dklen":32,"prf":"hmac-sha256","salt":"ae3cd4e7013836a3df6bd7241b12db061dbe2c6785853cce422d148a624ce0bd"},"mac":"517ead924a9d0dc3124507e3393d175ce3ff7c1e96529c6c555ce9e51205e9b2"},"id":"3198bc9c-6672-5ab3-d995-4942343ae5b6","version":3}`
)

func TestLoadForeignFiles(t *testing.T) {
	t.Parallel()
	const secret = "7a28b5ba57c53603b0b07b56bba752f7784bf506fa95edc395f5cf6c7514fe9d"
	const address = "008aeeda4d805471df9b2a5b0f38a0c3bcba786b"
	with := func(member string) string {
		return strings.Replace(definitionPBKDF2, `{"crypto"`, `{`+member+`,"crypto"`, 1)
	}
	for name, text := range map[string]string{
		"scrypt": definitionScrypt, "pbkdf2": definitionPBKDF2,
		"with address": with(`"address":"` + address + `"`), "with prefixed address": with(`"address":"0x` + strings.ToUpper(address) + `"`),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := file(t, text, 0o600)
			key, err := Load(path, []byte("testpassword"))
			if err != nil || hex.EncodeToString(key.Bytes()) != secret {
				t.Fatalf("%v, %v", key, err)
			}
			if a, err := Address(path); strings.HasPrefix(name, "with") && (err != nil || a != key.Address()) {
				t.Errorf("address %s, %v", a, err)
			}
		})
	}
	path := file(t, with(`"address":"108aeeda4d805471df9b2a5b0f38a0c3bcba786b"`), 0o600)
	_, err := Load(path, []byte("testpassword"))
	wantErr(t, err, ErrFile)
	_, err = Address(file(t, definitionPBKDF2, 0o600))
	wantErr(t, err, ErrFile)
}

// cheap returns a container that opens in no time, for tests of everything else.
func cheap(t testing.TB, secret []byte) map[string]any {
	t.Helper()
	crypto, err := geth.EncryptDataV3(secret, nil, 2, 1)
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(container{Crypto: crypto, ID: newUUID(), Version: version})
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	if err := json.Unmarshal(text, &m); err != nil {
		t.Fatal(err)
	}
	return m
}

func TestShortKeyIsPadded(t *testing.T) {
	t.Parallel()
	text, err := json.Marshal(cheap(t, []byte{1}))
	if err != nil {
		t.Fatal(err)
	}
	key, err := Load(file(t, string(text), 0o600), nil)
	if err != nil || key.Address() != evm.MustAddress("0x7E5F4552091A69125d5DfCb7b8C2659029395Bdf") {
		t.Errorf("%v, %v", key, err)
	}
}

// Nothing in a file may stop the program or make it work for minutes.
func TestDamagedFiles(t *testing.T) {
	t.Parallel()
	set := func(value any, path ...string) func(m map[string]any) {
		return func(m map[string]any) {
			for _, p := range path[:len(path)-1] {
				m = m[p].(map[string]any)
			}
			if value == nil {
				delete(m, path[len(path)-1])
				return
			}
			m[path[len(path)-1]] = value
		}
	}
	for name, damage := range map[string]func(map[string]any){
		"version 1":       set(1, "version"),
		"no version":      set(nil, "version"),
		"no crypto":       set(nil, "crypto"),
		"no params":       set(nil, "crypto", "kdfparams"),
		"no salt":         set(nil, "crypto", "kdfparams", "salt"),
		"salt number":     set(5, "crypto", "kdfparams", "salt"),
		"salt not hex":    set("zz", "crypto", "kdfparams", "salt"),
		"n text":          set("2", "crypto", "kdfparams", "n"),
		"n not a power":   set(3, "crypto", "kdfparams", "n"),
		"n huge":          set(1<<30, "crypto", "kdfparams", "n"),
		"n past integers": set(1e300, "crypto", "kdfparams", "n"),
		"n negative":      set(-2, "crypto", "kdfparams", "n"),
		"r zero":          set(0, "crypto", "kdfparams", "r"),
		"p huge":          set(1<<40, "crypto", "kdfparams", "p"),
		"p missing":       set(nil, "crypto", "kdfparams", "p"),
		"dklen 16":        set(16, "crypto", "kdfparams", "dklen"),
		"dklen text":      set("32", "crypto", "kdfparams", "dklen"),
		"kdf unknown":     set("md5", "crypto", "kdf"),
		"pbkdf2 bare":     set("pbkdf2", "crypto", "kdf"),
		"iv short":        set("00", "crypto", "cipherparams", "iv"),
		"iv missing":      set(nil, "crypto", "cipherparams", "iv"),
		"cipher unknown":  set("rot13", "crypto", "cipher"),
		"text not hex":    set("xy", "crypto", "ciphertext"),
		"text empty":      set("", "crypto", "ciphertext"),
		"text long":       set(strings.Repeat("00", secretBytesMax+1), "crypto", "ciphertext"),
		"mac not hex":     set("xy", "crypto", "mac"),
		"kind unknown":    set("banana", "kind"),
		"address bad":     set("12", "address"),
	} {
		m := cheap(t, bytes.Repeat([]byte{7}, 32))
		damage(m)
		text, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Load(file(t, string(text), 0o600), nil); !errors.Is(err, ErrFile) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, secret := range map[string][]byte{"zero key": make([]byte, 32), "long key": make([]byte, 33), "key past the order": bytes.Repeat([]byte{0xff}, 32)} {
		text, err := json.Marshal(cheap(t, secret))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Load(file(t, string(text), 0o600), nil); !errors.Is(err, ErrFile) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, text := range []string{"", "{", "[]", "null", "0x7a28b5ba57c53603b0b07b56bba752f7784bf506fa95edc395f5cf6c7514fe9d", strings.Repeat(" ", fileBytesMax+1)} {
		if _, err := Load(file(t, text, 0o600), nil); !errors.Is(err, ErrFile) || strings.Contains(err.Error(), "7a28") {
			t.Errorf("%.10q: %v", text, err)
		}
	}
	if _, err := Load(t.TempDir(), nil); !errors.Is(err, ErrFile) {
		t.Errorf("a folder: %v", err)
	}
	if _, err := Load(filepath.Join(t.TempDir(), "none"), nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
}

func TestChangedCiphertextIsNotOpened(t *testing.T) {
	t.Parallel()
	m := cheap(t, bytes.Repeat([]byte{7}, 32))
	crypto := m["crypto"].(map[string]any)
	text := []byte(crypto["ciphertext"].(string))
	text[0] = "10"[text[0]&1]
	if string(text) == crypto["ciphertext"] {
		text[0] = '2'
	}
	crypto["ciphertext"] = string(text)
	b, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	_, err = Load(file(t, string(b), 0o600), nil)
	wantErr(t, err, ErrPassphrase)
}

func TestReadPassphrase(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"secret": "secret", "secret\n": "secret", "secret\r\n": "secret", "secret\n\n": "secret\n", " secret \n": " secret ", "a\nb": "a\nb", "secret\r": "secret\r",
	} {
		if got, err := ReadPassphrase(file(t, text, 0o600)); err != nil || string(got) != want {
			t.Errorf("%q is read as %q, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "\n", "\r\n"} {
		_, err := ReadPassphrase(file(t, text, 0o600))
		wantErr(t, err, ErrFile)
	}
	_, err := ReadPassphrase(filepath.Join(t.TempDir(), "none"))
	wantErr(t, err, fs.ErrNotExist)
}

func FuzzLoad(f *testing.F) {
	f.Add([]byte(definitionPBKDF2))
	text, err := json.Marshal(cheap(f, bytes.Repeat([]byte{7}, 32)))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Fuzz(func(t *testing.T, text []byte) {
		var c container
		if json.Unmarshal(text, &c) != nil || c.check() != nil {
			return
		}
		if n, ok := c.Crypto.KDFParams["n"].(float64); ok && n > 64 { // time is for tries, not for scrypt
			return
		}
		if n, ok := c.Crypto.KDFParams["c"].(float64); ok && n > 64 {
			return
		}
		if _, err := c.open("file", nil); err != nil && !errors.Is(err, ErrPassphrase) && !errors.Is(err, ErrFile) {
			t.Error(err)
		}
	})
}

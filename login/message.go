package login

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/farthing402/farthing/evm"
)

// messageBytesMax bounds a sign-in message.
const messageBytesMax = 4 << 10

// message is what a sign-in message says (EIP-4361).
type message struct {
	domain, address, statement, uri, version, nonce string
	chainID                                         uint64
	issuedAt, expiration, notBefore                 string
}

const greeting = " wants you to sign in with your Ethereum account:"

// parseMessage reads the text that a wallet has signed.
func parseMessage(text string) (m message, err error) {
	if len(text) > messageBytesMax {
		return m, fmt.Errorf("%d bytes: at most %d are read", len(text), messageBytesMax)
	}
	lines := strings.Split(text, "\n")
	next := func() (line string, ok bool) {
		if len(lines) == 0 {
			return "", false
		}
		line, lines = lines[0], lines[1:]
		return line, true
	}
	first, _ := next()
	var ok bool
	if m.domain, ok = strings.CutSuffix(first, greeting); !ok || m.domain == "" {
		return m, errors.New("its first line is not that of a sign-in (EIP-4361)")
	}
	m.address, _ = next()
	if line, ok := next(); !ok || line != "" {
		return m, errors.New("no empty line after the address")
	}
	if m.statement, _ = next(); m.statement != "" {
		if line, ok := next(); !ok || line != "" {
			return m, errors.New("no empty line after the statement")
		}
	}
	var chain string
	for _, f := range []struct {
		name     string
		to       *string
		optional bool
	}{
		{"URI", &m.uri, false}, {"Version", &m.version, false}, {"Chain ID", &chain, false}, {"Nonce", &m.nonce, false},
		{"Issued At", &m.issuedAt, false}, {"Expiration Time", &m.expiration, true}, {"Not Before", &m.notBefore, true},
		{"Request ID", new(string), true},
	} {
		if len(lines) > 0 {
			if value, ok := strings.CutPrefix(lines[0], f.name+": "); ok {
				*f.to, lines = value, lines[1:]
				continue
			}
		}
		if !f.optional {
			return m, fmt.Errorf("%s is missing, or not in its place", f.name)
		}
	}
	if len(lines) > 0 && lines[0] == "Resources:" {
		for lines = lines[1:]; len(lines) > 0 && strings.HasPrefix(lines[0], "- "); lines = lines[1:] {
		}
	}
	if len(lines) > 0 {
		return m, errors.New("there is more than a sign-in in it")
	}
	if m.chainID, err = strconv.ParseUint(chain, 10, 64); err != nil {
		return m, errors.New("chain ID is no number")
	}
	return m, nil
}

// check compares a message with what was asked for. The nonce and the signature are left.
func (s *Service) check(m message, address evm.Address, now time.Time) error {
	if a, err := evm.ParseAddress(m.address); err != nil || a != address {
		return fmt.Errorf("it is of account %s, not of %s", clip(m.address), address)
	}
	switch {
	case m.version != "1":
		return fmt.Errorf("version %s: there is 1", clip(m.version))
	case m.chainID != s.ChainID:
		return fmt.Errorf("it is for chain %d, this is %d", m.chainID, s.ChainID)
	case !strings.EqualFold(m.domain, s.Domain):
		return fmt.Errorf("it is for domain %s, this is %s", clip(m.domain), s.Domain)
	case m.uri != s.URI:
		return fmt.Errorf("it is for %s, this is %s", clip(m.uri), s.URI)
	case strings.TrimSpace(m.statement) != strings.TrimSpace(s.Statement):
		return errors.New("its statement is another one")
	}
	for _, t := range []struct {
		name, text string
		wrong      func(time.Time) bool
		why        string
	}{
		{"Issued At", m.issuedAt, func(time.Time) bool { return false }, ""},
		{"Expiration Time", m.expiration, now.After, "has passed"},
		{"Not Before", m.notBefore, now.Before, "is still to come"},
	} {
		if t.text == "" {
			continue
		}
		at, err := time.Parse(time.RFC3339, t.text)
		if err != nil {
			return fmt.Errorf("%s %q is no time (RFC 3339)", t.name, clip(t.text))
		}
		if t.wrong(at) {
			return fmt.Errorf("%s %s %s", t.name, t.text, t.why)
		}
	}
	return nil
}

// clip bounds text that somebody else wrote.
func clip(s string) string {
	if len(s) > 100 {
		return s[:100] + "…"
	}
	return s
}

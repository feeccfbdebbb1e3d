package paywall

import (
	"net/http"
	"net/url"
	"strings"
)

// decodings is how often a path is decoded in the search for what it may mean to a server behind us.
const decodings = 3

// plainPath reports whether a request's path means the same to everybody who reads it. A path that one server cleans or
// decodes and another does not could be free here and priced there: such a one is refused before anything is looked up.
func plainPath(r *http.Request) bool {
	escaped := r.URL.EscapedPath()
	if !strings.HasPrefix(escaped, "/") {
		return escaped == "*" && r.Method == http.MethodOptions
	}
	segments := strings.Split(escaped[1:], "/")
	for i, s := range segments {
		if s == "" && i != len(segments)-1 || !plainSegment(s) {
			return false
		}
	}
	return true
}

func plainSegment(s string) bool {
	for range decodings {
		// Some servers cut parameters off a segment first, so that "..;x" is "..".
		name, _, _ := strings.Cut(s, ";")
		if name == "." || name == ".." || strings.ContainsAny(s, "/\\") || strings.ContainsFunc(s, isControl) {
			return false
		}
		decoded, err := url.PathUnescape(s)
		if err != nil || decoded == s {
			return true // a lone % after decoding is text
		}
		s = decoded
	}
	return false
}

func isControl(r rune) bool { return r < 0x20 || r == 0x7f }

// target returns path and query of a request as the buyer sent them, also behind http.StripPrefix.
func target(r *http.Request) string {
	if strings.HasPrefix(r.RequestURI, "/") {
		return r.RequestURI
	}
	return r.URL.RequestURI()
}

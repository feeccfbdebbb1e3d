package network

import (
	"fmt"
	"slices"
	"strings"
)

// UnknownError names a network or an asset that no entry has, and those there are.
type UnknownError struct {
	Asset bool     // an asset; otherwise a network
	What  string   // what was asked for
	On    string   // the chain, for an asset
	Known []string // what could have been asked for, in order of preference
}

func (e *UnknownError) Error() string {
	if e.Asset {
		return fmt.Sprintf("no %s on %s", e.What, e.On)
	}
	return fmt.Sprintf("no network %q", e.What)
}

// hintMax is how many names a hint lists.
const hintMax = 10

// Hint says what to do instead: take the nearest known name, or add an entry.
func (e *UnknownError) Hint() string {
	near := Nearest(e.What, e.Known)
	names := e.Known
	if len(names) > hintMax {
		names = append(slices.Clone(names[:hintMax]), "and others")
	}
	list := strings.Join(names, ", ")
	switch {
	case !e.Asset && near != "":
		return "did you mean " + near + "? others can be added in networks.yaml"
	case !e.Asset && list == "":
		return "add it to networks.yaml"
	case !e.Asset:
		return "known: " + list + "; add yours to networks.yaml"
	case list == "":
		return "no token is known there; add its address to networks.yaml"
	case near != "" && len(e.Known) > 1:
		return "did you mean " + near + "? " + list + " are known there; add the token's address to networks.yaml to use another"
	case len(e.Known) > 1:
		return list + " are known there; add the token's address to networks.yaml to use another"
	}
	return list + " is known there; add the token's address to networks.yaml to use another"
}

// Nearest returns the candidate that is at most a typing mistake or two away from word (one in three letters), or "". Of
// equally near ones the first wins.
func Nearest(word string, candidates []string) string {
	asked := []rune(strings.ToLower(word))
	best, bestDistance := "", 1+len(asked)/3
	for _, c := range candidates {
		if d := distance(asked, []rune(strings.ToLower(c)), bestDistance); d <= bestDistance && d < len(asked) {
			best, bestDistance = c, d-1
		}
	}
	return best
}

// distance is Levenshtein's, or something larger than limit if that is.
func distance(a, b []rune, limit int) int {
	if d := len(a) - len(b); d > limit || -d > limit {
		return limit + 1
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i, x := range a {
		diagonal := row[0]
		row[0] = i + 1
		for j, y := range b {
			change := diagonal
			if x != y {
				change++
			}
			diagonal, row[j+1] = row[j+1], min(change, row[j+1]+1, row[j]+1)
		}
	}
	return row[len(b)]
}

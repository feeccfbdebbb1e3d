package store

import (
	"testing"

	"github.com/farthing402/farthing/login"
	"github.com/farthing402/farthing/login/logintest"
)

func TestLogins(t *testing.T) {
	t.Parallel()
	logintest.Run(t, func(t *testing.T) login.Book { return fresh(t).Logins() })
}

package store

import (
	"testing"

	"github.com/farthing402/farthing/login"
	"github.com/farthing402/farthing/login/logintest"
)

func TestLogins(t *testing.T) { onEach(t, testLogins) }

func testLogins(t *testing.T, db database) {
	logintest.Run(t, func(t *testing.T) login.Book { return db.fresh(t).Logins() })
}

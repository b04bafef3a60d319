// Reads schedules from standard input and writes what robfig/cron 1.2 makes of them. Kubeflow's
// controller of recurring runs hands the text to the same function, cron.Parse.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/robfig/cron"
)

type answer struct {
	Spec  string   `json:"spec"`
	After string   `json:"after"`
	Next  []string `json:"next"` // null: refused
}

func main() {
	in, out := bufio.NewScanner(os.Stdin), json.NewEncoder(os.Stdout)
	for in.Scan() {
		var asked answer
		if err := json.Unmarshal(in.Bytes(), &asked); err != nil {
			fail(err)
		}
		at, err := time.Parse(time.RFC3339, asked.After)
		if err != nil {
			fail(err)
		}
		if schedule, err := cron.Parse(asked.Spec); err == nil {
			asked.Next = []string{}
			for len(asked.Next) < 3 {
				if at = schedule.Next(at); at.IsZero() {
					break
				}
				asked.Next = append(asked.Next, at.Format(time.RFC3339))
			}
		}
		if err := out.Encode(asked); err != nil {
			fail(err)
		}
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

//go:build linux

package template

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"time"
)

// failureDir is where a store keeps, for each shape, why its template could not
// be made, or not be cloned: a file each, because nobody who writes one has the
// store's lock.
const failureDir = "failures"

// mostFailures bounds them.
const mostFailures = 32

// Failure is why a template could not be made, or not be cloned.
type Failure struct {
	Key   string    `json:"key"`
	Time  time.Time `json:"time"`
	Error string    `json:"error"`
}

// expired: it is neither news any more nor keeps a template from being made.
func (f Failure) expired() bool { return time.Since(f.Time) >= retryAfter }

// LastFailure is the latest of what went wrong and has not gone right since. It
// returns nil if there is none, or if it is older than retryAfter and another
// template could be made since.
func (s Store) LastFailure() (*Failure, error) {
	root, err := s.open(false)
	if errors.Is(err, ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer root.Close()
	all, err := failures(root)
	if err != nil || len(all) == 0 || all[0].Time.IsZero() {
		return nil, err
	}
	return &all[0], nil
}

// failures are those of the store, the latest first. One that cannot be read, of
// which half is written, or all that the disk had room for, has the zero Time.
func failures(root *os.Root) ([]Failure, error) {
	entries, err := fs.ReadDir(root.FS(), failureDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("templates: %w", err)
	}
	var all []Failure
	for _, e := range entries {
		f := Failure{}
		data, err := root.ReadFile(path.Join(failureDir, e.Name()))
		if err == nil {
			_ = json.Unmarshal(data, &f)
		}
		f.Key = e.Name()
		all = append(all, f)
	}
	slices.SortFunc(all, func(a, b Failure) int { return b.Time.Compare(a.Time) })
	return all, nil
}

// noteFailure keeps cause as the shape's, or, if it is nil, forgets what the
// shape had. Others' go when they are expired, or too many.
func (s Store) noteFailure(key string, cause error) error {
	root, err := s.open(false)
	if err != nil {
		return err
	}
	defer root.Close()
	all, err := failures(root)
	if err != nil {
		return err
	}
	left := 0
	for _, f := range all {
		if f.Key != key && !f.expired() && left+1 < mostFailures {
			left++
			continue
		}
		if err := root.Remove(path.Join(failureDir, f.Key)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("templates: %w", err)
		}
	}
	if cause == nil {
		return nil
	}
	data, err := json.Marshal(Failure{Key: key, Time: time.Now().UTC(), Error: cause.Error()})
	if err == nil {
		err = root.MkdirAll(failureDir, 0o700)
	}
	if err == nil {
		err = root.WriteFile(path.Join(failureDir, key), data, 0o600)
	}
	if err != nil {
		return fmt.Errorf("templates: %w", err)
	}
	return nil
}

// forgetFailures forgets all of them.
func forgetFailures(root *os.Root) error {
	if err := root.RemoveAll(failureDir); err != nil {
		return fmt.Errorf("templates: %w", err)
	}
	return nil
}

// failedLately says whether it is too soon to try that shape again.
func (s Store) failedLately(key string) bool {
	root, err := s.open(false)
	if err != nil {
		return false
	}
	defer root.Close()
	all, err := failures(root)
	return err == nil && slices.ContainsFunc(all, func(f Failure) bool { return f.Key == key && !f.expired() })
}

package manifest

// WithoutFastWay makes d open files as other systems do.
func WithoutFastWay(d *Dir) { d.fast.no.Store(true) }
